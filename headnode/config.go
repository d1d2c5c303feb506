package headnode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"

	"muster/api"
	"muster/headnode/store"
)

// knownSettings are the settings of a cluster, by key.
func knownSettings() []api.Setting {
	return []api.Setting{
		{
			Key: settingContainers, Default: settingOff, Choices: []string{settingOff, settingOn},
			Doc: "whether jobs may ask for user namespaces, mounts inside them and FUSE (muster run --allow containers), as Apptainer " +
				"and bubblewrap need them: more of the kernel is within their reach, and such tasks cannot move",
		},
		{
			Key: "rejoin", Default: "auto", Choices: []string{"auto", "address", "approve"},
			Doc: "how a machine known by its address alone is let in again: address (at once, when the one before is silent), " +
				"approve (by a person), auto (address where muster gives out the addresses, else approve)",
		},
		{
			Key: settingRootJobs, Default: settingOff, Choices: []string{settingOff, settingOn},
			Doc: "whether root may run jobs: on a share that does not squash root they can read and change every file",
		},
	}
}

// Settings that allow jobs something, and their values.
const (
	settingRootJobs   = "root-jobs"
	settingContainers = "containers"

	settingOff = "off"
	settingOn  = "on"
)

// allows tells whether a setting of the values on and off is on.
func (c *Settings) allows(key string) bool { return c.value(key) == settingOn }

// Settings are the cluster's settings.
type Settings struct {
	store store.Interface
	nodes *Nodes
	log   func(msg string, args ...any)

	write  sync.Mutex // through a change, taken before mu
	mu     sync.Mutex
	values map[string]string
}

var _ settings = (*Settings)(nil)

type settingRecord struct {
	Schema int    `json:"schema"`
	Value  string `json:"value"`
	By     string `json:"by,omitempty"`
}

func newSettings(s store.Interface, log func(msg string, args ...any)) (*Settings, error) {
	c := &Settings{store: s, log: log, values: map[string]string{}}
	for _, k := range knownSettings() {
		r, ok := s.Get(kindSetting, k.Key)
		if !ok {
			continue
		}
		var rec settingRecord
		if err := json.Unmarshal(r.Data, &rec); err != nil {
			return nil, fmt.Errorf("reading setting %s: %w", k.Key, err)
		}
		c.values[k.Key] = rec.Value
	}
	return c, nil
}

// value is the value of a setting that exists.
func (c *Settings) value(key string) string {
	s, err := c.Get(key)
	if err != nil {
		return ""
	}
	return s.Value
}

// List implements settings.
func (c *Settings) List() []api.Setting {
	list := knownSettings()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range list {
		if v, ok := c.values[list[i].Key]; ok {
			list[i].Value = v
		} else {
			list[i].Value = list[i].Default
		}
	}
	return list
}

// Get implements settings.
func (c *Settings) Get(key string) (api.Setting, error) {
	var keys []string
	for _, s := range c.List() {
		if s.Key == key {
			return s, nil
		}
		keys = append(keys, s.Key)
	}
	hint := "muster config list shows all of them"
	if near := nearest(key, keys); near != "" {
		hint = "the nearest name is " + near
	}
	return api.Setting{}, &api.Error{Code: api.CodeNotFound, Msg: fmt.Sprintf("no setting is called %s", cleanText(key)), Hint: hint}
}

// check tells whether a setting may have a value; "" is the default.
func (c *Settings) check(key, value string) error {
	s, err := c.Get(key)
	if err != nil {
		return err
	}
	if value != "" && !slices.Contains(s.Choices, value) {
		return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("setting %s cannot be %q", key, cleanText(value)), Hint: "it is one of " + strings.Join(s.Choices, ", ")}
	}
	return nil
}

// Set implements settings.
func (c *Settings) Set(ctx context.Context, actor, key, value string) (api.Setting, error) {
	if err := c.setAll(ctx, actor, map[string]string{key: value}); err != nil {
		return api.Setting{}, err
	}
	return c.Get(key)
}

// setAll changes settings, all or none.
func (c *Settings) setAll(ctx context.Context, actor string, values map[string]string) error {
	c.write.Lock()
	defer c.write.Unlock()
	var ops []store.Op
	for key, value := range values {
		if err := c.check(key, value); err != nil {
			return err
		}
		op := store.Op{Kind: kindSetting, ID: key, Expect: store.AnyRev}
		if value != "" {
			data, err := json.Marshal(settingRecord{Schema: 1, Value: value, By: actor})
			if err != nil {
				return err
			}
			op.Data = data
		}
		ops = append(ops, op)
	}
	if _, err := c.store.Commit(ctx, ops...); err != nil {
		return recordError(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, value := range values {
		if value == "" {
			delete(c.values, key)
		} else {
			c.values[key] = value
		}
		c.log("setting changed", "key", key, "value", value, "actor", actor)
	}
	return nil
}

// configFile is the YAML of export and import.
type configFile struct {
	Settings map[string]string `yaml:"settings"`
	Machines []configMachine   `yaml:"machines,omitempty"`
}

// configMachine is a machine that a head shall know beforehand.
type configMachine struct {
	Name string `yaml:"name,omitempty"`
	MAC  string `yaml:"mac,omitempty"`
	UUID string `yaml:"uuid,omitempty"`
	IP   string `yaml:"ip,omitempty"`
	// Image is the image of its own, by name or ID.
	Image  string   `yaml:"image,omitempty"`
	Labels []string `yaml:"labels,omitempty"`
}

func (m configMachine) request() api.DeclareRequest {
	return api.DeclareRequest{MAC: m.MAC, UUID: m.UUID, Name: m.Name, IP: m.IP}
}

// Export implements settings: all settings, and every node and declared
// machine as one to declare.
func (c *Settings) Export() ([]byte, error) {
	doc := configFile{Settings: map[string]string{}, Machines: c.nodes.exported()}
	for _, s := range c.List() {
		doc.Settings[s.Key] = s.Value
	}
	b, err := yaml.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("writing configuration: %w", err)
	}
	return b, nil
}

// Import implements settings. Settings change all or none; machines that are
// known already are left as they are.
func (c *Settings) Import(ctx context.Context, actor string, doc []byte) error {
	var in configFile
	dec := yaml.NewDecoder(bytes.NewReader(doc), yaml.Strict())
	if err := dec.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
		return &api.Error{Code: api.CodeInvalid, Msg: "reading configuration: " + yamlErrorText(err), Hint: "muster config export shows the form"}
	}
	for i, m := range in.Machines {
		if _, err := declaredRecord(m.request()); err != nil {
			return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("machine %d of the configuration: %s", i+1, api.AsError(err).Msg)}
		}
		for _, l := range m.Labels {
			if err := api.CheckLabel(l); err != nil {
				return &api.Error{Code: api.CodeInvalid, Msg: fmt.Sprintf("machine %d of the configuration: %v", i+1, err)}
			}
		}
		if err := c.nodes.checkImage(m.Image); err != nil {
			return &api.Error{
				Code: api.CodeInvalid, Msg: fmt.Sprintf("machine %d of the configuration: %s", i+1, api.AsError(err).Msg),
				Hint: "publish that image first, or take the line image: away",
			}
		}
	}
	if err := c.setAll(ctx, actor, in.Settings); err != nil {
		return err
	}
	for _, m := range in.Machines {
		if c.nodes.knows(m) {
			continue
		}
		v, err := c.nodes.Declare(ctx, actor, m.request())
		if err == nil && m.Image != "" {
			_, err = c.nodes.AssignImage(ctx, actor, api.AssignImageRequest{Nodes: []string{v.ID}, Image: m.Image})
		}
		if err == nil && len(m.Labels) > 0 {
			_, err = c.nodes.Label(ctx, actor, api.LabelRequest{Nodes: []string{v.ID}, Add: m.Labels})
		}
		if err != nil {
			return fmt.Errorf("declaring machine %s%s of the configuration: %w", m.MAC, m.UUID, err)
		}
	}
	return nil
}

// yamlErrorText is what is wrong with a YAML text and where, in one line.
func yamlErrorText(err error) string {
	var at yaml.Error
	if !errors.As(err, &at) || at.GetToken() == nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return cleanText(first)
	}
	return fmt.Sprintf("line %d: %s", at.GetToken().Position.Line, cleanText(at.GetMessage()))
}

// exported are the nodes and declared machines, by name.
func (n *Nodes) exported() []configMachine {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []configMachine
	for _, m := range n.machines {
		if m.isNode() || m.State == api.NodeDeclared {
			list = append(list, configMachine{Name: m.Name, MAC: m.mac(), UUID: m.Hardware.UUID, IP: m.FixedIP, Image: m.Image, Labels: m.Labels})
		}
	}
	sort.Slice(list, func(i, j int) bool {
		if c := api.CompareNames(list[i].Name, list[j].Name); c != 0 {
			return c < 0
		}
		return list[i].MAC < list[j].MAC
	})
	return list
}

// knows tells whether a machine is a node or declared already.
func (n *Nodes) knows(c configMachine) bool {
	rec, err := declaredRecord(c.request())
	if err != nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.machines {
		if (m.isNode() || m.State == api.NodeDeclared) && sameAddress(m.Hardware, rec.Hardware) {
			return true
		}
	}
	return false
}
