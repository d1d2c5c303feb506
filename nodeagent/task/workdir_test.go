package task

import (
	"strings"
	"testing"

	"muster/api"
)

func TestRoomForSent(t *testing.T) {
	sent := func(sizes ...int64) api.TaskStart {
		var t api.TaskStart
		for _, n := range sizes {
			t.Files = append(t.Files, api.SentFile{Size: n})
		}
		return t
	}
	const gib = 1 << 30
	for name, c := range map[string]struct {
		tasks []api.TaskStart
		full  bool
	}{
		"nothing":          {nil, false},
		"all of it":        {[]api.TaskStart{sent(gib)}, false},
		"more":             {[]api.TaskStart{sent(gib, 1)}, true},
		"more with others": {[]api.TaskStart{sent(gib / 2), sent(), sent(gib/2, 1)}, true},
	} {
		err := roomForSent(c.tasks, gib)
		if (err != nil) != c.full || err != nil && !strings.Contains(err.Error(), "they have 1024 MiB, and 1024 have room") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
