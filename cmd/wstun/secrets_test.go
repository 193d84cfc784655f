package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"wstun/internal/access"
)

func TestHashPassword(t *testing.T) {
	long := strings.Repeat("p", 72)
	for stdin, pw := range map[string]string{
		"hunter2": "hunter2", "hunter2\n": "hunter2", "hunter2\r\n": "hunter2", " sp ace \n": " sp ace ", long + "\n": long,
	} {
		r := runWith(t, nil, stdin, "hash-password")
		if r.code != 0 || r.err != "" || strings.Count(r.out, "\n") != 1 {
			t.Fatalf("%q: exit code %d, stdout %q, stderr %q", stdin, r.code, r.out, r.err)
		}
		if err := bcrypt.CompareHashAndPassword([]byte(strings.TrimSpace(r.out)), []byte(pw)); err != nil {
			t.Errorf("%q: %v", stdin, err)
		}
	}
	for _, stdin := range []string{"", "\n", "a\nb\n", "a\n\n", long + "p"} {
		if r := runWith(t, nil, stdin, "hash-password"); r.code != exitFailed || r.out != "" || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", stdin, r.code, r.out, r.err)
		}
	}
	if r := runWith(t, nil, "", "hash-password", "hunter2"); r.code != exitUsage || strings.Contains(r.err+r.out, "hunter2") {
		t.Errorf("password as argument: exit code %d, stdout %q, stderr %q", r.code, r.out, r.err)
	}
}

func TestToken(t *testing.T) {
	r := runWith(t, nil, "", "token", "lab7")
	m := regexp.MustCompile(`(?s)^for the server, [^\n]*\n\n(.*)\nfor the client, [^\n]*\n\n$`).FindStringSubmatch(r.err)
	if r.code != 0 || m == nil {
		t.Fatalf("exit code %d: %s%s", r.code, r.out, r.err)
	}
	token, entry := strings.TrimSuffix(r.out, "\n"), m[1] // to a file: wstun token lab7 > lab7.token
	sum := sha256.Sum256([]byte(token))
	if !strings.Contains(entry, "sha256: "+hex.EncodeToString(sum[:])+"\n") || strings.Contains(entry, token) {
		t.Errorf("entry:\n%s", entry)
	}
	if _, err := access.ParseUsers("users.yaml", []byte(entry)); err != nil {
		t.Error(err)
	}
	if again := runWith(t, nil, "", "token", "lab7"); again.out == r.out {
		t.Error("the same token twice")
	}
	if r := runWith(t, nil, "", "token", "a:b"); r.code != exitUsage || r.out != "" {
		t.Errorf("a name with a colon: exit code %d, %s", r.code, r.out)
	}
}

func TestReadSecret(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no mode there")
	}
	for _, tt := range []struct {
		name, content string
		mode          os.FileMode
		want          string
		warning, err  string // with the path written as FILE
	}{
		{name: "plain", content: "s3cret\n", mode: 0o600, want: "s3cret"},
		{name: "no newline", content: "s3cret", mode: 0o400, want: "s3cret"},
		{name: "first line", content: "s3 cret \r\nsecond\n", mode: 0o640, want: "s3 cret "},
		{name: "readable", content: "s", mode: 0o644, want: "s", warning: "FILE can be read by others: chmod o-r FILE"},
		{name: "writable by the group", content: "s", mode: 0o660, err: "FILE can be written by others"},
		{name: "writable by all", content: "s", mode: 0o602, err: "FILE can be written by others"},
		{name: "empty", content: "", mode: 0o600, err: "FILE: the first line is empty"},
		{name: "empty line", content: "\nsecond\n", mode: 0o600, err: "FILE: the first line is empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil { // the umask has no say
				t.Fatal(err)
			}
			got, warning, err := readSecret(path)
			message := ""
			if err != nil {
				message = err.Error()
			}
			named := func(s string) string { return strings.ReplaceAll(s, "FILE", path) }
			if got != tt.want || warning != named(tt.warning) || message != named(tt.err) {
				t.Errorf("got %q, warning %q, error %q", got, warning, message)
			}
		})
	}
	if _, _, err := readSecret("-"); err == nil {
		t.Error("a secret was read from stdin")
	}
	if _, _, err := readSecret(filepath.Join(t.TempDir(), "none")); !os.IsNotExist(err) {
		t.Errorf("missing file: %v", err)
	}
}
