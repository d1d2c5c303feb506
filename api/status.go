package api

import "time"

// Status is the head and its cluster at a glance.
type Status struct {
	Version     string            `json:"version"`
	Fingerprint string            `json:"fingerprint" doc:"of the head's key; nodes show the same"`
	Pin         string            `json:"pin" doc:"SHA-256 of the head's public key"`
	Started     time.Time         `json:"started"`
	Nodes       map[NodeState]int `json:"nodes"`
	Jobs        map[JobState]int  `json:"jobs"`
	Cores       int               `json:"cores" doc:"of all ready nodes"`
	CoresBusy   int               `json:"cores_busy" doc:"asked for by running tasks"`
	MemoryMiB   int64             `json:"memory_mib"`
	Image       string            `json:"image,omitempty" doc:"name of the default image"`
	Enrollment  Enrollment        `json:"enrollment"`
	Boot        []BootInterface   `json:"boot,omitempty"`
	Warnings    []string          `json:"warnings,omitempty"`
}

// BootInterface is what the boot service does on one interface.
type BootInterface struct {
	Name   string `json:"name"`
	Addr   string `json:"addr" doc:"address and prefix length"`
	DHCP   string `json:"dhcp" doc:"full, proxy or off"`
	Reason string `json:"reason,omitempty" doc:"why that mode was chosen"`
}

// List is one page of a listing. Revision is the state of the head that it
// shows; a watch from there misses nothing.
type List[T any] struct {
	Items    []T    `json:"items"`
	Next     string `json:"next,omitempty" doc:"pass as ?page= for the rest"`
	Revision uint64 `json:"revision"`
}

// Event is one change in the cluster, in the order of Revision. Exactly one
// of Node, Job and Boot is set. Watched at /v1/events as server-sent events.
type Event struct {
	Revision uint64     `json:"revision"`
	Time     time.Time  `json:"time"`
	Actor    string     `json:"actor,omitempty" doc:"user, node or head that caused it"`
	Kind     string     `json:"kind" doc:"node, job or boot"`
	Node     *Node      `json:"node,omitempty"`
	Job      *Job       `json:"job,omitempty"`
	Boot     *BootEvent `json:"boot,omitempty"`
	Removed  bool       `json:"removed,omitempty"`
}

// Setting is one cluster setting.
type Setting struct {
	Key     string   `json:"key"`
	Value   string   `json:"value"`
	Default string   `json:"default"`
	Doc     string   `json:"doc"`
	Choices []string `json:"choices,omitempty"`
}

// SettingRequest changes a setting.
type SettingRequest struct {
	Value string `json:"value" doc:"empty: back to the default"`
}

// ConfigDocument is the cluster's settings and declared machines as YAML.
type ConfigDocument struct {
	YAML string `json:"yaml"`
}

// Caller is who the head takes the sender of a request for.
type Caller struct {
	Owner     Owner  `json:"owner" doc:"whom its jobs run as"`
	Admin     bool   `json:"admin"`
	NoAccount string `json:"no_account,omitempty" doc:"why it cannot run jobs"`
}
