package api

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// AppendInput appends the wire form of c to b: its JSON without the data, a line feed, and the data
// as it is. Input is the only request that can be large, and base64 in JSON took most of its time.
func AppendInput(b []byte, c InputChunk) []byte {
	data := c.Data
	c.Data = nil
	head, err := json.Marshal(c)
	if err != nil {
		panic(fmt.Sprintf("api: encoding %T: %v", c, err)) // it always encodes
	}
	return append(append(append(b, head...), '\n'), data...)
}

// ParseInput reads what [AppendInput] wrote. Data aliases b.
func ParseInput(b []byte) (InputChunk, error) {
	var c InputChunk
	head, data, _ := bytes.Cut(b, []byte{'\n'})
	if err := json.Unmarshal(head, &c); err != nil {
		return c, fmt.Errorf("reading input for a task: %w", err)
	}
	if len(data) > 0 {
		c.Data = data
	}
	return c, nil
}
