package api

// limitsOfUsers are the resource limits that go along with a job, with the numbers that Linux has on every
// architecture of ours: RLIMIT_CPU, FSIZE, DATA, STACK, CORE, NOFILE and AS. A task's limits are set with root's
// rights, so the others are not a user's to ask for: real time, priority, queues and locked memory are
// the node's.
var limitsOfUsers = [...]int{0, 1, 2, 3, 4, 7, 9}

// OfUsers tells whether a user decides about the resource of a limit.
func (l Limit) OfUsers() bool {
	for _, r := range limitsOfUsers {
		if l.Resource == r {
			return true
		}
	}
	return false
}
