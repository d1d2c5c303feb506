package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"muster/api"
)

func get[T any](c *Client, ctx context.Context, path string, query url.Values) (T, error) {
	var out T
	err := c.call(ctx, http.MethodGet, path, query, nil, &out)
	return out, err
}

func send[T any](c *Client, ctx context.Context, method, path string, in any) (T, error) {
	var out T
	err := c.call(ctx, method, path, nil, in, &out)
	return out, err
}

// part escapes a name for use as one segment of a path.
func part(s string) string { return url.PathEscape(s) }

// Status shows the head and its cluster at a glance.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	return get[api.Status](c, ctx, "/v1/status", nil)
}

// WhoAmI tells whom the head takes this client for.
func (c *Client) WhoAmI(ctx context.Context) (api.Caller, error) {
	return get[api.Caller](c, ctx, "/v1/whoami", nil)
}

// Nodes lists all machines and nodes.
func (c *Client) Nodes(ctx context.Context) (api.List[api.Node], error) {
	return get[api.List[api.Node]](c, ctx, "/v1/nodes", nil)
}

// NodesOn lists the nodes that a node list stands for, as n[1-4] or label:gpu.
func (c *Client) NodesOn(ctx context.Context, list string) (api.List[api.Node], error) {
	return get[api.List[api.Node]](c, ctx, "/v1/nodes", url.Values{"on": {list}})
}

// Node finds a machine or node by name, MAC, fingerprint or id.
func (c *Client) Node(ctx context.Context, ref string) (api.Node, error) {
	return get[api.Node](c, ctx, "/v1/nodes/"+part(ref), nil)
}

// NodeLog is the end of a node's kernel log.
func (c *Client) NodeLog(ctx context.Context, ref string) (api.KernelLog, error) {
	return get[api.KernelLog](c, ctx, "/v1/nodes/"+part(ref)+"/log", nil)
}

// Approve makes pending machines nodes and returns them.
func (c *Client) Approve(ctx context.Context, req api.ApproveRequest) ([]api.Node, error) {
	l, err := send[api.List[api.Node]](c, ctx, http.MethodPost, "/v1/nodes/approve", req)
	return l.Items, err
}

// Reject refuses a pending machine.
func (c *Client) Reject(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodPost, "/v1/nodes/"+part(ref)+"/reject", nil, nil, nil)
}

// RemoveNode forgets a node.
func (c *Client) RemoveNode(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/v1/nodes/"+part(ref), nil, nil, nil)
}

// RebootNode reboots a node.
func (c *Client) RebootNode(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodPost, "/v1/nodes/"+part(ref)+"/reboot", nil, nil, nil)
}

// DeclareNode makes a machine known before it boots.
func (c *Client) DeclareNode(ctx context.Context, req api.DeclareRequest) (api.Node, error) {
	return send[api.Node](c, ctx, http.MethodPost, "/v1/nodes", req)
}

// RenameNode gives a node another name.
func (c *Client) RenameNode(ctx context.Context, ref, name string) (api.Node, error) {
	return send[api.Node](c, ctx, http.MethodPost, "/v1/nodes/"+part(ref)+"/rename", api.RenameRequest{Name: name})
}

// SetNodeAdmin makes a node ready, draining or paused.
func (c *Client) SetNodeAdmin(ctx context.Context, ref string, to api.AdminState) (api.Node, error) {
	return send[api.Node](c, ctx, http.MethodPost, "/v1/nodes/"+part(ref)+"/admin", api.AdminRequest{Admin: to})
}

// AssignImage gives nodes an image of their own, or the default again, and returns them.
func (c *Client) AssignImage(ctx context.Context, req api.AssignImageRequest) ([]api.Node, error) {
	l, err := send[api.List[api.Node]](c, ctx, http.MethodPost, "/v1/nodes/image", req)
	return l.Items, err
}

// LabelNodes changes the labels of nodes and returns them.
func (c *Client) LabelNodes(ctx context.Context, req api.LabelRequest) ([]api.Node, error) {
	l, err := send[api.List[api.Node]](c, ctx, http.MethodPost, "/v1/nodes/labels", req)
	return l.Items, err
}

// Enrollment tells whether unknown machines are answered.
func (c *Client) Enrollment(ctx context.Context) (api.Enrollment, error) {
	return get[api.Enrollment](c, ctx, "/v1/enrollment", nil)
}

// SetEnrollment opens or closes enrollment.
func (c *Client) SetEnrollment(ctx context.Context, req api.EnrollmentRequest) (api.Enrollment, error) {
	return send[api.Enrollment](c, ctx, http.MethodPut, "/v1/enrollment", req)
}

// BootLog is the timeline of a machine's latest boots.
func (c *Client) BootLog(ctx context.Context, ref string) (api.BootLog, error) {
	return get[api.BootLog](c, ctx, "/v1/boot/"+part(ref), nil)
}

// Images lists the published images.
func (c *Client) Images(ctx context.Context) (api.List[api.Image], error) {
	return get[api.List[api.Image]](c, ctx, "/v1/images", nil)
}

// Publish publishes an image whose blobs are all there.
func (c *Client) Publish(ctx context.Context, req api.PublishRequest) (api.Image, error) {
	return send[api.Image](c, ctx, http.MethodPost, "/v1/images", req)
}

// ImageManifest returns the manifest.json of a published image.
func (c *Client) ImageManifest(ctx context.Context, ref string) ([]byte, error) {
	m, err := get[api.ImageManifest](c, ctx, "/v1/images/"+part(ref)+"/manifest", nil)
	return m.Manifest, err
}

// SetDefaultImage chooses the image of machines that have none of their own.
func (c *Client) SetDefaultImage(ctx context.Context, ref string) (api.Image, error) {
	return send[api.Image](c, ctx, http.MethodPost, "/v1/images/"+part(ref)+"/default", nil)
}

// SetImage changes what is set of a published image.
func (c *Client) SetImage(ctx context.Context, ref string, s api.ImageSettings) (api.Image, error) {
	return send[api.Image](c, ctx, http.MethodPut, "/v1/images/"+part(ref)+"/settings", s)
}

// RemoveImage removes a published image.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/v1/images/"+part(ref), nil, nil, nil)
}

// Settings lists the cluster's settings.
func (c *Client) Settings(ctx context.Context) (api.List[api.Setting], error) {
	return get[api.List[api.Setting]](c, ctx, "/v1/config", nil)
}

// Setting shows one setting.
func (c *Client) Setting(ctx context.Context, key string) (api.Setting, error) {
	return get[api.Setting](c, ctx, "/v1/config/"+part(key), nil)
}

// SetSetting changes a setting; value "" returns to its default.
func (c *Client) SetSetting(ctx context.Context, key, value string) (api.Setting, error) {
	return send[api.Setting](c, ctx, http.MethodPut, "/v1/config/"+part(key), api.SettingRequest{Value: value})
}

// ExportConfig gives settings and declared machines as YAML.
func (c *Client) ExportConfig(ctx context.Context) ([]byte, error) {
	d, err := get[api.ConfigDocument](c, ctx, "/v1/config-document", nil)
	return []byte(d.YAML), err
}

// ImportConfig reads what ExportConfig gave.
func (c *Client) ImportConfig(ctx context.Context, doc []byte) error {
	return c.call(ctx, http.MethodPut, "/v1/config-document", nil, api.ConfigDocument{YAML: string(doc)}, nil)
}

// HasBlob tells whether the head has a file for jobs with that hash. It keeps
// one that it has for another hour.
func (c *Client) HasBlob(ctx context.Context, sha256 string) (bool, error) {
	return c.hasBlob(ctx, sha256, "job")
}

// HasImageBlob tells whether the head has an artifact with that hash.
func (c *Client) HasImageBlob(ctx context.Context, sha256 string) (bool, error) {
	return c.hasBlob(ctx, sha256, "image")
}

func (c *Client) hasBlob(ctx context.Context, sha256, use string) (bool, error) {
	req, err := c.request(ctx, http.MethodHead, "/v1/blobs/"+part(sha256), url.Values{"for": {use}}, nil)
	if err != nil {
		return false, err
	}
	resp, err := c.send(req)
	switch {
	case api.CodeOf(err) == api.CodeNotFound:
		return false, nil
	case err != nil:
		return false, err
	}
	return true, resp.Body.Close()
}

// PutBlob uploads a file for jobs. open may be called more than once.
func (c *Client) PutBlob(ctx context.Context, sha256 string, size int64, open func() (io.ReadCloser, error)) error {
	return c.putBlob(ctx, sha256, "job", size, open)
}

// PutImageBlob uploads an artifact of an image that is about to be published.
func (c *Client) PutImageBlob(ctx context.Context, sha256 string, size int64, open func() (io.ReadCloser, error)) error {
	return c.putBlob(ctx, sha256, "image", size, open)
}

func (c *Client) putBlob(ctx context.Context, sha256, use string, size int64, open func() (io.ReadCloser, error)) error {
	body, err := open()
	if err != nil {
		return err
	}
	defer body.Close()
	req, err := c.request(ctx, http.MethodPut, "/v1/blobs/"+part(sha256), url.Values{"for": {use}}, body)
	if err != nil {
		return err
	}
	req.ContentLength, req.GetBody = size, open
	if size == 0 {
		req.Body, req.GetBody = http.NoBody, nil
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Jobs lists jobs, newest first: with all every one that the head remembers,
// else those on the first page of a hundred.
func (c *Client) Jobs(ctx context.Context, all bool) (api.List[api.Job], error) {
	q := url.Values{"limit": {"100"}}
	if all {
		q.Set("limit", "1000")
	}
	out, err := c.ListJobs(ctx, q)
	for err == nil && all && out.Next != "" {
		var more api.List[api.Job]
		q.Set("page", out.Next)
		if more, err = c.ListJobs(ctx, q); err == nil {
			out.Items, out.Next = append(out.Items, more.Items...), more.Next
		}
	}
	return out, err
}

// ListJobs lists one page of jobs; query is that of GET /v1/jobs (state,
// user, node, name, limit, page).
func (c *Client) ListJobs(ctx context.Context, query url.Values) (api.List[api.Job], error) {
	return get[api.List[api.Job]](c, ctx, "/v1/jobs", query)
}

func jobPath(id uint64) string { return "/v1/jobs/" + strconv.FormatUint(id, 10) }

// Job shows a job.
func (c *Client) Job(ctx context.Context, id uint64) (api.Job, error) {
	return get[api.Job](c, ctx, jobPath(id), nil)
}

// Submit submits a job. It is durable when Submit returns; with a RequestID
// the same submission may be repeated.
func (c *Client) Submit(ctx context.Context, spec api.JobSpec) (api.Job, error) {
	return send[api.Job](c, ctx, http.MethodPost, "/v1/jobs", spec)
}

// Cancel ends a job.
func (c *Client) Cancel(ctx context.Context, id uint64) (api.Job, error) {
	return send[api.Job](c, ctx, http.MethodPost, jobPath(id)+"/cancel", nil)
}

// Signal sends a signal to every running task of a job.
func (c *Client) Signal(ctx context.Context, id uint64, signal int) error {
	return c.call(ctx, http.MethodPost, jobPath(id)+"/signal", nil, api.SignalRequest{Signal: signal}, nil)
}

// Logs writes the output of a job that is kept to stdout and stderr: that of
// one task, or with task -1 of all, one after the other. With follow it goes
// on until the job has ended.
func (c *Client) Logs(ctx context.Context, id uint64, task int, follow bool, stdout, stderr io.Writer) error {
	have := map[int]int64{}
	for wait := newBackoff(); ; {
		before := maps.Clone(have)
		err := c.logs(ctx, id, task, follow, have, stdout, stderr)
		if code := api.CodeOf(err); code != api.CodeUnreachable || maps.Equal(before, have) {
			return err
		}
		// The head was restarted, or nobody looked at the output for a while.
		if err := wait.sleep(ctx); err != nil {
			return err
		}
	}
}

// logs is one try of Logs. It goes on from what is there of each task.
func (c *Client) logs(ctx context.Context, id uint64, task int, follow bool, have map[int]int64, stdout, stderr io.Writer) error {
	q := url.Values{"frames": {"1"}}
	if task >= 0 {
		q.Set("task", strconv.Itoa(task))
	}
	if follow {
		q.Set("follow", "1")
	}
	if len(have) > 0 {
		q.Set("from", fromOffsets(have))
	}
	req, err := c.request(ctx, http.MethodGet, jobPath(id)+"/logs", q, nil)
	if err != nil {
		return err
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := bufio.NewReaderSize(resp.Body, 128<<10)
	for {
		f, err := api.ReadFrame(in)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return c.unreachable(fmt.Errorf("reading output of job %d: %w", id, err))
		}
		w := stdout
		if f.Stream == api.Stderr {
			w = stderr
		}
		if f.Type == api.FrameGap {
			have[f.Task] = max(have[f.Task], f.Offset)
		} else {
			have[f.Task] = f.Offset + int64(len(f.Data))
		}
		if _, err := w.Write(f.Data); err != nil {
			return err
		}
	}
}

// Events calls f for every change after revision since, until ctx is done,
// the connection breaks or f returns an error. Since 0 begins with the oldest
// change that the head remembers.
func (c *Client) Events(ctx context.Context, since uint64, f func(api.Event) error) error {
	req, err := c.request(ctx, http.MethodGet, "/v1/events", url.Values{"since": {strconv.FormatUint(since, 10)}}, nil)
	if err != nil {
		return err
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), 16<<20)
	kind := ""
	for lines.Scan() {
		line := lines.Bytes()
		if k, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
			kind = string(k)
		}
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok {
			continue
		}
		if kind == "error" {
			if e := api.DecodeError(data); e != nil {
				return e
			}
		}
		var e api.Event
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("reading event %.60s: %w", strings.TrimSpace(string(data)), err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return c.unreachable(err)
	}
	return c.unreachable(io.ErrUnexpectedEOF)
}

// Shares lists the directories that nodes mount.
func (c *Client) Shares(ctx context.Context) (api.List[api.Share], error) {
	return get[api.List[api.Share]](c, ctx, "/v1/shares", nil)
}

// Share finds a share by its path.
func (c *Client) Share(ctx context.Context, path string) (api.Share, error) {
	return get[api.Share](c, ctx, "/v1/shares/"+part(path), nil)
}

// AddShare has nodes mount a directory.
func (c *Client) AddShare(ctx context.Context, req api.ShareRequest) (api.Share, error) {
	return send[api.Share](c, ctx, http.MethodPost, "/v1/shares", req)
}

// RemoveShare has nodes unmount a share.
func (c *Client) RemoveShare(ctx context.Context, path string) error {
	return c.call(ctx, http.MethodDelete, "/v1/shares/"+part(path), nil, nil, nil)
}
