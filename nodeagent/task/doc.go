// Package task runs tasks on a node: processes of users, each under a shim.
//
// The [Manager] is part of the agent. It keeps a directory for each task
// (layout below), fetches the files that were sent along, starts the shim and
// then passes messages between shim and head; it keeps nothing that a shim
// does not have, so an agent that was killed goes on where it was. The shim
// ([Shim], the same program with other arguments) is the task's parent: it
// holds standard input, output and error, numbers and keeps the output until
// the head has it, and knows how the task ended until the head has that too.
// In the task's namespaces cmd/muster-init is process 1.
// One shim is started ahead of time and waits for the next task (spare.go).
//
// Read manager.go, then remote.go (the agent's view of one task) and launch.go,
// then shim.go (how it serves the agent) and program.go (how it runs the
// program) with spool.go and input.go. cgroup.go, env.go, files.go and initconfig.go
// make what surrounds the program.
//
// # Directory of a task
//
// RUN/tasks/JOB-INDEX-EPOCH, 0711, root's:
//
//	spec.json  what the head asked for, 0600; written before anything else
//	lock       locked (flock) by who starts the shim, then by the shim
//	started    the shim was about to start the program: it is never started again
//	sock       the shim listens here
//	end.json   how the task ended, where no shim can tell
//	log        what the shim said on standard error
//	work       the task's working directory, 0700, the user's
//
// A task sees nothing of it but work: the init mounts an empty folder over RUN,
// or over the /run or /tmp that it is in, and work back into it.
//
// A directory without a live shim and without started is started (again);
// one with started lost its shim: what is left of it is killed, and it failed.
//
// # Between agent and shim
//
// Frames of api/frame.go over a Unix stream socket. The shim serves one agent
// at a time, the latest. The first one is handed over as an open descriptor,
// so that nobody waits for a socket to appear.
//
//	shim to agent
//	frameState      Data: api.TaskStatus; first frame, then when something changed
//	frameEvent      Data: api.TaskEvent; after frameState, then at each event
//	FrameOutput     a piece of output
//	FrameInputAck   input is taken up to Offset; sent for each FrameInput, and
//	                when there is room again
//	FrameInputShut  the program does not read any more
//	agent to shim
//	frameGo         send output, from the first byte that is not acknowledged
//	frameHold       send none: the head is not reached
//	FrameOutputAck  the head has output up to Offset
//	FrameInput      Data at Offset
//	FrameInputEOF   input ends at Offset
//	FrameSignal     signal number Offset
//	frameForget     end, if the task has ended
//
// The shim sends at most [window] bytes beyond what is acknowledged, and from
// the acknowledged byte again when nothing was for a while (go-back-N), so
// a lost message or a lost agent costs a repetition, never a byte.
//
// # Calls
//
// Methods of [Manager] may be called from any goroutine. Locks: Manager.mu
// before remote.mu; shim.mu before spool.mu.
package task
