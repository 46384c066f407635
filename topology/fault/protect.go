package fault

import (
	"fmt"
	"runtime/debug"
)

// Panic is a panic that Protect recovered. Its stack is for logs.
type Panic struct {
	Value any
	Stack []byte
}

func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Protect makes a panic of f an error, a *Panic. A panic that nobody recovers in
// its own goroutine ends the program, and all that is healthy in it.
func Protect(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &Panic{r, debug.Stack()}
		}
	}()
	return f()
}
