//go:build tools

// Package tools pins what scripts/tools builds.
package tools

import _ "github.com/abtreece/confd/cmd/confd"
