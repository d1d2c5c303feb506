package squashfs

import (
	"encoding/binary"
	"io"
)

// output appends to the image. The first error stays and makes all later calls do
// nothing.
type output struct {
	w   io.WriterAt
	pos int64
	err error
}

func (o *output) write(p []byte) {
	if o.err != nil {
		return
	}
	n, err := o.w.WriteAt(p, o.pos)
	o.pos += int64(n)
	o.err = err
}

// pad writes zeros up to a multiple of align.
func (o *output) pad(align int64) error {
	if rest := o.pos % align; rest != 0 {
		o.write(make([]byte, align-rest))
	}
	return o.err
}

// table writes data as metadata blocks followed by the list of their positions,
// and returns the position of that list.
func (o *output) table(enc encoder, data []byte) uint64 {
	if len(data) == 0 {
		return noTable
	}
	m := newMeta(enc)
	starts := o.blocks(m, data)
	at := uint64(o.pos)
	o.write(starts)
	return at
}

// blocks writes data as metadata blocks and returns the list of their positions.
func (o *output) blocks(m *meta, data []byte) []byte {
	base := o.pos
	m.write(data)
	o.write(m.finish())
	var list []byte
	for _, s := range m.starts {
		list = binary.LittleEndian.AppendUint64(list, uint64(base)+uint64(s))
	}
	return list
}
