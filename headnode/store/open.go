package store

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Names inside the NATS server. The account is the store's alone: nothing
// that connects from outside is ever put into it.
const (
	recordsAccount = "RECORDS"
	recordsStream  = "RECORDS"
	historyStream  = "HISTORY"
	slotPrefix     = "v1.slot."
	historyPrefix  = "v1.history."
)

// Headers of a message: what record it holds. A message with headerFree
// marks its slot as free.
const (
	headerKind = "K"
	headerID   = "I"
	headerFree = "F"
)

// Limits of the history.
const (
	defaultHistoryAge   = 180 * 24 * time.Hour
	defaultHistoryBytes = 512 << 20
	// reserveBytes stay free on the disk: a batch that would go below is
	// refused before anything is written, because JetStream does not write
	// again after an error of the disk.
	reserveBytes = 16 << 20
	// commitTimeout bounds the wait for the disk. What was written when it
	// passes is not known; the store then gives up (see [Store.Failed]).
	commitTimeout = 60 * time.Second
)

// Config is what a [Store] needs.
type Config struct {
	Dir string // folder of the records, made if it is not there

	// Server, when not nil, is the rest of the configuration of the NATS
	// server: listener, TLS, accounts, authentication. Open adds what the
	// records need and wraps CustomClientAuthentication, which is called
	// for every connection but the store's own. nil: a server that does not
	// listen.
	Server *server.Options
	// BeforeStart may prepare the server between its making and its start.
	BeforeStart func(*server.Server) error

	HistoryAge   time.Duration // 0: 180 days
	HistoryBytes int64         // 0: 512 MiB

	// NoSync leaves writing to the kernel: what was acknowledged is lost
	// when the machine loses power. For the control of a test, and for
	// heads whose state is to be thrown away.
	NoSync bool
	Log    *slog.Logger // nil: no log
}

// Store is the records on JetStream. Make one with [Open].
type Store struct {
	log    *slog.Logger
	dir    string
	free   func(dir string) (uint64, error)
	server *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream
	batch  string // prefix of this process's batch ids

	batches atomic.Uint64 // batch ids given

	commits  chan *commit
	appends  chan *commit
	stop     chan struct{} // closed by Close
	closed   chan struct{} // closed when both loops have ended
	stopOnce sync.Once
	running  sync.WaitGroup
	alive    context.Context // done when the store failed; not a context of a caller
	kill     context.CancelFunc

	mu      sync.RWMutex
	rev     uint64
	records map[string]map[string]entry // by kind and id
	failure error                       // why alive is done
}

// entry is a record and where it lies.
type entry struct {
	Record
	slot int
}

var _ Interface = (*Store)(nil)

// Open starts the NATS server, reads all records and starts the committer.
// The caller closes the store.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	alive, kill := context.WithCancel(context.Background())
	s := &Store{
		log: cfg.Log, dir: cfg.Dir, free: freeBytes,
		batch:   rand.Text()[:10],
		commits: make(chan *commit, 256), appends: make(chan *commit, 256),
		stop: make(chan struct{}), closed: make(chan struct{}), alive: alive, kill: kill,
		records: map[string]map[string]entry{},
	}
	if err := s.start(cfg); err != nil {
		s.shutdown()
		return nil, err
	}
	slots, err := s.load(ctx, cfg)
	if err != nil {
		s.shutdown()
		return nil, err
	}
	s.running.Go(func() { s.commitLoop(slots) })
	s.running.Go(func() { s.appendLoop() })
	return s, nil
}

// Server is the NATS server of the store, for connections in other accounts.
func (s *Store) Server() *server.Server { return s.server }

// Failed is closed when the disk or the server did something after which the
// store does not know what was written. It writes nothing any more: the
// process must end and start anew, which reads what is there. [Store.Err]
// says what happened.
func (s *Store) Failed() <-chan struct{} { return s.alive.Done() }

// Err says why [Store.Failed] is closed, nil while it is not.
func (s *Store) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.failure
}

// Close lets commits that began end, and stops the server.
func (s *Store) Close() error {
	s.stopOnce.Do(func() {
		close(s.stop)
		s.running.Wait()
		close(s.closed)
		s.shutdown()
	})
	return nil
}

func (s *Store) shutdown() {
	if s.conn != nil {
		s.conn.Close()
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
}

// start makes the server and connects to it.
func (s *Store) start(cfg Config) error {
	opts := &server.Options{DontListen: true}
	if cfg.Server != nil {
		opts = cfg.Server
	}
	token := rand.Text()
	opts.NoSigs = true
	opts.JetStream = true
	opts.StoreDir = cfg.Dir
	opts.SyncAlways = !cfg.NoSync
	// The space that JetStream may use is checked by reserve, against the
	// disk as it is, and not against what was free at the start.
	opts.JetStreamMaxStore = 1 << 40
	opts.JetStreamMaxMemory = 64 << 20
	opts.JetStreamLimits.MaxBatchSize = MaxBatch
	opts.Accounts = append(opts.Accounts, server.NewAccount(recordsAccount), server.NewAccount("SYS"))
	opts.SystemAccount = "SYS"
	auth := &storeAuth{token: []byte(token), next: opts.CustomClientAuthentication}
	opts.CustomClientAuthentication = auth

	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("configuring record store: %w", err)
	}
	s.server = srv
	srv.SetLoggerV2(&natsLog{log: cfg.Log, diskError: s.diskError}, false, false, false)
	account, err := srv.LookupAccount(recordsAccount)
	if err != nil {
		return fmt.Errorf("configuring record store: %w", err)
	}
	auth.account = account
	if cfg.BeforeStart != nil {
		if err := cfg.BeforeStart(srv); err != nil {
			return err
		}
	}
	srv.Start()
	if !srv.JetStreamEnabled() {
		return fmt.Errorf("opening record store in %s: JetStream did not start; the log says why", cfg.Dir)
	}
	if err := account.EnableJetStream(nil, nil); err != nil {
		return fmt.Errorf("opening record store in %s: %w", cfg.Dir, err)
	}
	s.conn, err = nats.Connect("", nats.InProcessServer(srv), nats.UserInfo(recordsAccount, token),
		nats.Name("store"), nats.NoReconnect(), nats.DrainTimeout(time.Second))
	if err != nil {
		return fmt.Errorf("connecting to record store: %w", err)
	}
	s.js, err = jetstream.New(s.conn, jetstream.WithDefaultTimeout(commitTimeout))
	return err
}

// load makes the streams and reads every record.
func (s *Store) load(ctx context.Context, cfg Config) (*slots, error) {
	stream, err := s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: recordsStream, Subjects: []string{slotPrefix + "*"},
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage,
		AllowAtomicPublish: true, AllowDirect: true, DenyDelete: true, DenyPurge: true,
		MaxMsgSize: 1 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("opening stream of records: %w", err)
	}
	age, size := cfg.HistoryAge, cfg.HistoryBytes
	if age == 0 {
		age = defaultHistoryAge
	}
	if size == 0 {
		size = defaultHistoryBytes
	}
	_, err = s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: historyStream, Subjects: []string{historyPrefix + ">"},
		MaxAge: age, MaxBytes: size, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage,
		AllowAtomicPublish: true, AllowDirect: true,
		MaxMsgSize: 1 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("opening stream of history: %w", err)
	}
	slots, err := s.readAll(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("reading records: %w", err)
	}
	return slots, nil
}

// readAll fills records and finds the slots.
func (s *Store) readAll(ctx context.Context, stream jetstream.Stream) (*slots, error) {
	state := stream.CachedInfo().State
	s.rev = state.LastSeq
	all := newSlots()
	if state.Msgs == 0 {
		return all, nil
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return nil, err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	for range state.Msgs {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		slot, err := strconv.Atoi(strings.TrimPrefix(msg.Subject(), slotPrefix))
		if err != nil || slot < 0 {
			return nil, fmt.Errorf("message %d has subject %s", meta.Sequence.Stream, msg.Subject())
		}
		all.loaded(slot, meta.Sequence.Stream)
		h := msg.Headers()
		if slot == voidSlot || h.Get(headerFree) != "" {
			continue
		}
		r := Record{Kind: h.Get(headerKind), ID: h.Get(headerID), Rev: meta.Sequence.Stream, Data: msg.Data()}
		if err := CheckName(r.Kind, r.ID); err != nil {
			return nil, fmt.Errorf("message %d: %w", meta.Sequence.Stream, err)
		}
		s.put(entry{r, slot})
		if meta.NumPending == 0 {
			break
		}
	}
	used := make([]bool, len(all.seqs))
	for _, kind := range s.records {
		for _, e := range kind {
			used[e.slot] = true
		}
	}
	for slot := len(used) - 1; slot > voidSlot; slot-- {
		if !used[slot] {
			all.give(slot)
		}
	}
	return all, nil
}

// put sets a record; s.mu is held, or nobody else knows s yet.
func (s *Store) put(e entry) {
	if s.records[e.Kind] == nil {
		s.records[e.Kind] = map[string]entry{}
	}
	s.records[e.Kind][e.ID] = e
}

// fail makes the store refuse everything from now on, and returns the first
// reason for that.
func (s *Store) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = err
		s.log.Error("record store gave up", "err", err)
		s.kill()
	}
	return s.failure
}

// diskError is called when a stream cannot be written any more.
func (s *Store) diskError(text string) {
	s.fail(fmt.Errorf("writing records to %s: %s: %w", s.dir, text, ErrUnknown))
}

// storeAuth lets the store's own connection into its account and asks next
// about every other one.
type storeAuth struct {
	token   []byte
	account *server.Account
	next    server.Authentication
}

// Check implements server.Authentication.
func (a *storeAuth) Check(c server.ClientAuthentication) bool {
	opts := c.GetOpts()
	if opts.Username == recordsAccount {
		// A connection from outside has a network address and TLS; the token
		// never leaves this process.
		if c.RemoteAddress().Network() != "pipe" || subtle.ConstantTimeCompare([]byte(opts.Password), a.token) != 1 {
			return false
		}
		c.RegisterUser(&server.User{Username: recordsAccount, Account: a.account})
		return true
	}
	return a.next != nil && a.next.Check(c)
}

// natsLog passes what the NATS server says on, one level lower than it says
// it: what matters to an administrator is reported by the code that uses it.
type natsLog struct {
	log       *slog.Logger
	diskError func(text string)
}

func (l *natsLog) Noticef(format string, v ...any) { l.log.Debug(natsText(format, v)) }
func (l *natsLog) Warnf(format string, v ...any)   { l.log.Info(natsText(format, v)) }
func (l *natsLog) Errorf(format string, v ...any) {
	text := natsText(format, v)
	for _, known := range harmless {
		if strings.Contains(text, known) {
			l.log.Debug(text)
			return
		}
	}
	l.log.Warn(text)
	// The log is the only place where the server says that it will never
	// write to a stream again.
	if strings.Contains(strings.ToLower(format), "critical write error") {
		l.diskError(text)
	}
}

// harmless are errors of the server that say nothing to an administrator.
var harmless = []string{
	"TLS handshake error",          // whoever reaches the port could fill the log with these
	"can not be resolved properly", // it looks for its own addresses, which agents do not need
	"Accept error",                 // the socket was closed at the end
}

func (l *natsLog) Fatalf(format string, v ...any) { l.log.Error(natsText(format, v)) }
func (l *natsLog) Debugf(string, ...any)          {}
func (l *natsLog) Tracef(string, ...any)          {}

func natsText(format string, v []any) string {
	return "nats: " + strings.TrimSpace(fmt.Sprintf(format, v...))
}

// errClosed answers commits on a closed store.
var errClosed = errors.New("record store is closed")
