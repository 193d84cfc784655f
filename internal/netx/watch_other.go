//go:build !linux

package netx

import (
	"context"
	"errors"
)

// watchKernel has nobody to ask here: the addresses are looked at in turn.
func watchKernel(context.Context, func(why string)) error { return errors.ErrUnsupported }
