package headnode

import "sync"

// feed tells the readers of one job that something is new: output of a task,
// the job's state, how far its input was taken. It holds no data; a reader
// that was told looks for itself, so a slow one costs a few bytes.
type feed struct {
	mu   sync.Mutex
	subs map[*subscription]struct{}
}

// subscription is one reader of a [feed].
type subscription struct {
	feed *feed
	wake chan struct{} // capacity 1

	mu    sync.Mutex
	tasks map[int]struct{} // with new output
	job   bool             // the state changed
	input bool             // input was taken, or no task reads any more
}

func (f *feed) subscribe() *subscription {
	s := &subscription{feed: f, wake: make(chan struct{}, 1), tasks: map[int]struct{}{}}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.subs == nil {
		f.subs = map[*subscription]struct{}{}
	}
	f.subs[s] = struct{}{}
	return s
}

func (s *subscription) close() {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	delete(s.feed.subs, s)
}

// tell marks something as new for all readers.
func (f *feed) tell(mark func(*subscription)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		s.mu.Lock()
		mark(s)
		s.mu.Unlock()
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (f *feed) output(task int) { f.tell(func(s *subscription) { s.tasks[task] = struct{}{} }) }
func (f *feed) changed()        { f.tell(func(s *subscription) { s.job = true }) }
func (f *feed) taken()          { f.tell(func(s *subscription) { s.input = true }) }

// take returns what is new since the last call.
func (s *subscription) take() (tasks map[int]struct{}, job, input bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tasks, job, input = s.tasks, s.job, s.input
	s.tasks, s.job, s.input = map[int]struct{}{}, false, false
	return tasks, job, input
}
