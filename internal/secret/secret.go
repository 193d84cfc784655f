// Package secret reads files that hold secrets: keys, tokens, passwords, lists
// of users. It judges who else may read and write them; what is in them is the
// caller's.
package secret

import (
	"fmt"
	"io"
	"os"
	"runtime"
)

// maxFile is far above what any of these files needs.
const maxFile = 16 << 20

// Read returns what is in a file. A file that its group or others can write is
// an error, since they could put their own secret there; one that everybody
// can read is worth the warning, which is empty otherwise. On Windows, where
// modes say nothing of that, it is not judged.
func Read(path string) (data []byte, warning string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	stat, err := f.Stat() // of the very file that is read
	if err != nil {
		return nil, "", err
	}
	mode := stat.Mode().Perm()
	if runtime.GOOS == "windows" {
		mode = 0
	}
	if mode&0o022 != 0 {
		return nil, "", &ModeError{path}
	}
	if mode&0o004 != 0 {
		warning = path + " can be read by others: chmod o-r " + path
	}
	data, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return data, warning, err
}

// A ModeError is why a file that others can write is not read.
type ModeError struct{ Path string }

func (e *ModeError) Error() string { return e.Path + " can be written by others" }

// Hints say what to do about it.
func (e *ModeError) Hints() []string { return []string{"chmod go-w " + e.Path} }
