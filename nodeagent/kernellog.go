package nodeagent

import (
	"context"
	"encoding/json"

	"muster/api"
)

// maxLogBytes bounds a message of kernel lines.
const maxLogBytes = 256 << 10

// forwardLog sends the kernel's log until ctx is done or the log ends.
func (s *session) forwardLog(ctx context.Context) {
	a := s.a
	for {
		lines, err := a.cfg.KernelLog(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.log.Warn("the kernel's log is not sent any more", "error", err)
			return
		}
		for _, part := range splitLines(lines, maxLogBytes) {
			body, err := json.Marshal(api.KernelLog{Lines: part})
			if err == nil {
				err = s.nc.Publish(api.SubjectLog+a.key.public, body)
			}
			if err != nil {
				return // the connection is gone; the next session goes on
			}
		}
	}
}

// splitLines cuts lines into parts whose texts are at most limit bytes long.
func splitLines(lines []api.KernelLine, limit int) [][]api.KernelLine {
	var parts [][]api.KernelLine
	size, start := 0, 0
	for i, l := range lines {
		if i > start && size+len(l.Text) > limit {
			parts = append(parts, lines[start:i])
			size, start = 0, i
		}
		size += len(l.Text)
	}
	if start < len(lines) {
		parts = append(parts, lines[start:])
	}
	return parts
}
