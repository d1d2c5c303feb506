package api

import (
	"fmt"
	"strconv"
	"time"
)

// MarshalJSON writes seconds, with a fraction where there is one.
func (d Duration) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, time.Duration(d).Seconds(), 'f', -1, 64), nil
}

// UnmarshalJSON reads seconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return fmt.Errorf("parsing seconds %q: %w", b, err)
	}
	*d = Duration(f * float64(time.Second))
	return nil
}
