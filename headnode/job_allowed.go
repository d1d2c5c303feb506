package headnode

import (
	"fmt"

	"muster/api"
)

// checkAllowed refuses what the settings of the cluster do not allow a job of owner. allows tells
// whether one is on; nil: none is.
func checkAllowed(owner api.Owner, s api.JobSpec, allows func(setting string) bool) error {
	on := func(setting string) bool { return allows != nil && allows(setting) }
	switch {
	case owner.UID == 0 && !s.EachNode && !on(settingRootJobs): // what is for each node is an administrator's command
		return notAllowed(settingRootJobs, "run it as another user (sudo -u USER muster run COMMAND)", "this cluster runs no jobs of root")
	case s.Containers && !on(settingContainers):
		return notAllowed(settingContainers, "leave out --allow containers",
			"this cluster does not allow jobs namespaces and mounts of their own")
	}
	return nil
}

// notAllowed names the setting that forbids something, a way without it, and the command that
// allows it.
func notAllowed(setting, without, format string, args ...any) error {
	return &api.Error{
		Code: api.CodeForbidden, Msg: fmt.Sprintf(format, args...) + fmt.Sprintf(" (setting %s is off)", setting),
		Hint: fmt.Sprintf("%s, or let an administrator allow it: muster config set %s on", without, setting),
	}
}

// fixed says why the tasks of a job cannot move, "" when they can.
func fixed(s api.JobSpec) string {
	if s.Containers {
		return "it may make namespaces and mounts of its own (--allow containers), which no checkpoint holds"
	}
	return ""
}
