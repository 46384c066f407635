package doctor

// meshChecks are the probes through the tunnels themselves. Whoever makes them gives
// their results as facts, and a check here turns them into findings.
var meshChecks = []check{
	{"tunnels", func(_ *Facts, r *result) {
		r.unchecked("no probes through the tunnels are made yet; 'underlay' is what can be seen from this host")
	}},
}
