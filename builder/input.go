package builder

import (
	"errors"
	"fmt"
	"net/http"
)

// ErrInput is wrapped by errors about what a person wrote: a definition or a lock. Whoever
// asks for the same again gets the same error.
var ErrInput = errors.New("wrong input")

// ErrOffline is wrapped by errors about what had to be fetched and must not be.
var ErrOffline = errors.New("this build is offline")

// inputError marks an error as one about input without changing its text.
type inputError struct{ err error }

func (e inputError) Error() string        { return e.err.Error() }
func (e inputError) Unwrap() error        { return e.err }
func (e inputError) Is(target error) bool { return target == ErrInput }

func inputErrorf(format string, args ...any) error {
	return inputError{fmt.Errorf(format, args...)}
}

// asInput marks err, which may be nil, as one about input.
func asInput(err error) error {
	if err == nil {
		return nil
	}
	return inputError{err}
}

// noTransport is the network of a build that is offline.
type noTransport struct{}

func (noTransport) RoundTrip(*http.Request) (*http.Response, error) { return nil, ErrOffline }

// errFound ends a walk that has what it looked for.
var errFound = errors.New("found")
