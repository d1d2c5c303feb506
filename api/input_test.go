package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInputOnTheWire(t *testing.T) {
	for name, c := range map[string]InputChunk{
		"data":        {TaskRef: TaskRef{Job: 17, Index: 2, Epoch: 1}, Offset: 1 << 40, Data: []byte("a\nb\x00\xff{}")},
		"begins so":   {TaskRef: TaskRef{Job: 17}, Data: []byte("\n\n")},
		"the end":     {TaskRef: TaskRef{Job: 17}, Offset: 5, EOF: true},
		"both":        {TaskRef: TaskRef{Job: 17}, Offset: 5, Data: []byte("x"), EOF: true},
		"nothing yet": {},
	} {
		got, err := ParseInput(AppendInput([]byte{}, c))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(c, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if c, err := ParseInput([]byte("17\n{}")); err == nil {
		t.Errorf("ParseInput() = %+v, want an error", c)
	}
}

func FuzzParseInput(f *testing.F) {
	f.Add(AppendInput(nil, InputChunk{TaskRef: TaskRef{Job: 17, Index: 2, Epoch: 1}, Offset: 3, Data: []byte("a\n")}))
	f.Add([]byte("{\n"))
	f.Add([]byte(`{"job":1,"data":"YQ=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseInput(b)
		if err != nil {
			return
		}
		again, err := ParseInput(AppendInput(nil, c))
		if err != nil {
			t.Fatal(err)
		}
		if string(again.Data) != string(c.Data) || again.Offset != c.Offset || again.TaskRef != c.TaskRef || again.EOF != c.EOF {
			t.Errorf("%+v became %+v", c, again)
		}
	})
}
