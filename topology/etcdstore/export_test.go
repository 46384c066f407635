package etcdstore

// Network returns the backend that a store has unless the configuration brings
// another.
func Network(c Config) (Backend, error) {
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	return c.network()
}
