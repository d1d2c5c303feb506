package boot

import (
	"context"
	"testing"
)

// contextOf returns a context that ends with the test or with cancel.
func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(t.Context())
}
