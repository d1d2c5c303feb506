package api

import (
	"encoding/json"
	"errors"
	"net/http"
)

// Code names a kind of failure. Codes are a closed list and never change
// their meaning; docs/errors.md describes each.
type Code string

// The codes.
const (
	CodeInvalid         Code = "invalid"         // the request itself is wrong
	CodeNotFound        Code = "not_found"       // what it names does not exist
	CodeExists          Code = "exists"          // what it would create exists already
	CodeConflict        Code = "conflict"        // the thing is in a state that forbids it
	CodePending         Code = "pending"         // the machine waits for approval
	CodeUnsatisfiable   Code = "unsatisfiable"   // no node can ever run this
	CodeForbidden       Code = "forbidden"       // this user may not
	CodeUnauthenticated Code = "unauthenticated" // the head does not know who asks
	CodeUnreachable     Code = "unreachable"     // a node or the head does not answer
	CodeUnavailable     Code = "unavailable"     // the head cannot serve this right now
	CodeDiskFull        Code = "disk_full"       // the head has no room to keep it
	CodeTooLarge        Code = "too_large"       // beyond a limit of the API
	CodeCanceled        Code = "canceled"        // the caller went away
	CodeInternal        Code = "internal"        // a fault of muster
)

// Error is the one error of the wire. It is also returned by api/client, so
// a caller can ask for it with errors.As.
type Error struct {
	Code Code   `json:"code" doc:"kind of failure, see docs/errors.md"`
	Msg  string `json:"message" doc:"what went wrong, in one line"`
	Hint string `json:"hint,omitempty" doc:"what the user can do about it"`
}

// Error gives the message and, behind a semicolon, the hint.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Msg
	}
	return e.Msg + "; " + e.Hint
}

// Is makes errors.Is(err, &Error{Code: c}) true for every error of code c.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Msg == "" && t.Hint == ""
}

// CodeOf returns the code of the first *Error in err's chain, CodeInternal
// for another error and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

// AsError returns the first *Error in err's chain, or wraps err as an
// internal one. It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeInternal, Msg: err.Error()}
}

// httpStatus maps a code to its HTTP status (RFC 9110 section 15).
var httpStatus = map[Code]int{
	CodeInvalid: http.StatusBadRequest, CodeNotFound: http.StatusNotFound,
	CodeExists: http.StatusConflict, CodeConflict: http.StatusConflict,
	CodePending: http.StatusConflict, CodeUnsatisfiable: http.StatusUnprocessableEntity,
	CodeForbidden: http.StatusForbidden, CodeUnauthenticated: http.StatusUnauthorized,
	CodeUnreachable: http.StatusBadGateway, CodeUnavailable: http.StatusServiceUnavailable,
	CodeDiskFull: http.StatusInsufficientStorage, CodeTooLarge: http.StatusRequestEntityTooLarge,
	CodeCanceled: 499, CodeInternal: http.StatusInternalServerError,
}

// HTTPStatus is the status that carries a code over HTTP.
func (c Code) HTTPStatus() int {
	if s, ok := httpStatus[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// ErrorReply is the body of every failed HTTP request, and of a refused
// request to or from an agent.
type ErrorReply struct {
	Err *Error `json:"error"`
}

// DecodeError returns the *Error in an ErrorReply body, or nil when body
// is not one.
func DecodeError(body []byte) *Error {
	var r ErrorReply
	if json.Unmarshal(body, &r) != nil || r.Err == nil || r.Err.Code == "" {
		return nil
	}
	return r.Err
}
