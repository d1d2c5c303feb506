package task

import "os"

// Protect makes the kernel end other processes than this one when memory runs
// out: it is the task that ends, not who can say so. It takes a right that only
// root has; without it nothing changes. Tasks do not inherit it, their
// init starts from zero.
func Protect() {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0)
}
