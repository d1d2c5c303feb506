package api

import (
	"fmt"
	"strconv"
	"strings"
)

// String is the form of a reference in subjects, file names and logs:
// JOB-INDEX-EPOCH, as in 17-0-1.
func (r TaskRef) String() string {
	return fmt.Sprintf("%d-%d-%d", r.Job, r.Index, r.Epoch)
}

// ParseTaskRef reads what [TaskRef.String] wrote.
func ParseTaskRef(s string) (TaskRef, error) {
	p := strings.Split(s, "-")
	if len(p) != 3 {
		return TaskRef{}, fmt.Errorf("parsing task %q: want JOB-INDEX-EPOCH", s)
	}
	job, err1 := strconv.ParseUint(p[0], 10, 64)
	index, err2 := strconv.ParseUint(p[1], 10, 31)
	epoch, err3 := strconv.ParseUint(p[2], 10, 31)
	if err1 != nil || err2 != nil || err3 != nil {
		return TaskRef{}, fmt.Errorf("parsing task %q: want JOB-INDEX-EPOCH", s)
	}
	return TaskRef{Job: job, Index: int(index), Epoch: int(epoch)}, nil
}
