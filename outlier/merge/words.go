package merge

import "fmt"

// A fault domain is called a machine in what people read: it is one, or what must be
// taken for one.

// machines says that so many fault domains saw something.
func machines(n int) string { return "sidecars on " + machineCount(n) }

func machineCount(n int) string { return plural(n, "machine") }

// loudest are the fault domains that a statistic leaves out.
func loudest(n int) string {
	if n == 1 {
		return "loudest machine"
	}
	return fmt.Sprintf("%d loudest machines", n)
}

func sidecars(n int) string { return plural(n, "sidecar") }

// were says that so many other sidecars were asked something.
func were(n int) string {
	if n == 1 {
		return "1 other sidecar was"
	}
	return fmt.Sprintf("%d other sidecars were", n)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
