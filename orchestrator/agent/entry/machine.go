package entry

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/process"
)

// runtimeConfig is what pods of this machine run with, as far as the command line and the machine say it.
func runtimeConfig(o options) (process.Config, error) {
	dir, err := os.Getwd()
	if err != nil {
		return process.Config{}, fmt.Errorf("the directory for pods to start in: %w", err)
	}
	stateDir, err := filepath.Abs(o.stateDir)
	if err != nil {
		return process.Config{}, fmt.Errorf("--state-dir: %w", err)
	}
	// What an agent before this one has kept is nobody's any more: its pods ended with it.
	pods := filepath.Join(stateDir, "pods")
	if err := os.RemoveAll(pods); err != nil {
		return process.Config{}, fmt.Errorf("remove what was kept for earlier pods: %w", err)
	}
	machine, err := thisMachine(o.controlPlane)
	if err != nil {
		return process.Config{}, err
	}
	return process.Config{
		Environ: os.Environ(), Dir: dir, StateDir: pods, Images: o.images, Backoff: process.KubeletBackoff(), Machine: machine,
	}, nil
}

// thisMachine is what pods are told of the machine: all that it has, and the address from which it reaches the control plane.
func thisMachine(controlPlane string) (process.Machine, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return process.Machine{}, fmt.Errorf("the machine's memory: %w", err)
	}
	return process.Machine{
		Address: func() (string, error) { return addressTowards(controlPlane) },
		Allocatable: corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
			corev1.ResourceMemory: *resource.NewQuantity(int64(info.Totalram)*int64(info.Unit), resource.BinarySI),
		},
	}, nil
}

// addressTowards returns the address that this machine has for another. Nothing is sent: it asks for the route alone.
func addressTowards(other string) (string, error) {
	route, err := net.Dial("udp", other)
	if err != nil {
		return "", fmt.Errorf("the address from which %s is reached: %w", other, err)
	}
	defer route.Close()
	host, _, err := net.SplitHostPort(route.LocalAddr().String())
	return host, err
}
