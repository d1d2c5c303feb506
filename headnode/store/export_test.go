package store

// SetFree replaces how free space is looked up.
func (s *Store) SetFree(free func(string) (uint64, error)) { s.free = free }
