package guardian

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Inherited returns an inherited file by its number, nil for a negative one; name is for errors.
func Inherited(fd int, name string) (*os.File, error) {
	if fd < 0 {
		return nil, nil
	}
	if fd < 3 {
		return nil, fmt.Errorf("%s: file descriptor %d is one of the standard three", name, fd)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("%s: file descriptor %d: %w", name, fd, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
