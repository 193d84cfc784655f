package access

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// A real hash, of nobody knows what.
const someHash = "$2y$10$X52xs56MUodM8JBrlxifg.HnZJ7OwN/wjNLGkhXh9Ks9oGsMczFSu"

var someSum = strings.Repeat("0a", 32)

func TestParseUsers(t *testing.T) {
	for _, test := range []struct {
		name, in, want string // want is NAME:PASSWORD?:TOKENS
	}{
		{"nothing", "", ""},
		{"comments only", "# nobody yet\n\n", ""},
		{"empty list", "[]", ""},
		{"null", "---\n", ""},
		{"password", "- name: alice\n  password: " + someHash, "alice"},
		{"quoted", "- name: 'alice b'\n  password: \"" + someHash + "\"", "alice b"},
		{"number", "- name: 007\n  password: " + someHash, "007"},
		{"flow", "[{name: alice, password: " + someHash + "}]", "alice"},
		{"byte order mark", "\ufeff- name: alice\n  password: " + someHash, "alice"},
		{"two", "- name: alice\n  password: " + someHash + "\n- name: bob\n  password: " + someHash, "alice bob"},
		{"tokens only", "- name: lab7\n  tokens:\n  - name: a\n    sha256: " + someSum, "lab7's"},
		{"htpasswd", "# made by htpasswd\nalice:" + someHash + "\n\nbob:" + someHash + "\r\n", "alice bob"},
	} {
		t.Run(test.name, func(t *testing.T) {
			u, err := ParseUsers("users.yaml", []byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, name := range []string{"alice", "alice b", "007", "bob"} {
				if u.passwords[name] != nil {
					got = append(got, name)
				}
			}
			for _, token := range u.tokens {
				got = append(got, token.user+"'s")
			}
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("%q, want %q", s, test.want)
			}
			if u.Basic() != (len(u.passwords) > 0) {
				t.Error("Basic")
			}
		})
	}
}

func TestParseUsersSaysWhatIsWrong(t *testing.T) {
	cheap := strings.Replace(someHash, "$10$", "$04$", 1)
	dear := strings.Replace(someHash, "$10$", "$31$", 1)
	token := "- name: a\n  tokens:\n  - name: x\n    sha256: "
	for _, test := range []struct{ name, in, want string }{
		{"unknown key", "- name: alice\n  passwd: x", `u:2:3: unknown key "passwd": did you mean "password"?`},
		{"unknown key of a token", "- name: a\n  tokens:\n  - name: x\n    sha265: y", `u:4:5: unknown key "sha265": did you mean "sha256"?`},
		{"key twice", "- name: alice\n  name: bob", "u:2:3: "},
		{"no list", "name: alice\npassword: x", "users are a list"},
		{"list of names", "- alice\n- bob", "u:1:3: this is no name"},
		{"no name", "- password: " + someHash, "u:1:3: no name"},
		{"empty name", "- name: ''\n  password: " + someHash, "u:1:9: a user has no name"},
		{"control characters", "- name: \"a\\u0007\"\n  password: " + someHash, "control characters"},
		{"colon", "- name: a:b\n  password: " + someHash, "has a colon"},
		{"name of everyone", "- name: anonymous\n  password: " + someHash, "take another name"},
		{"user twice", "- name: a\n  password: " + someHash + "\n- name: a\n  tokens: []", `u:3:9: the user "a" is there twice`},
		{"nothing to log in with", "- name: a", "u:1:9: a has neither a password nor tokens"},
		{"plain password", "- name: a\n  password: hunter2", "u:2:13: the password of a is not a bcrypt hash ($2a$, $2b$ or $2y$): make one with wstun hash-password"},
		{"cheap hash", "- name: a\n  password: " + cheap, "cost 4"},
		{"hash that takes a day", "- name: a\n  password: " + dear, "cost 31"},
		{"hash that is cut", "- name: a\n  password: " + someHash[:59], "not a bcrypt hash"},
		{"no text", "- name: [a]\n  password: x", "u:1:9: name is not a text"},
		{"no list of tokens", "- name: a\n  tokens: x", "tokens are a list"},
		{"short digest", token + "0a", "u:4:13: sha256 is not 64 hex digits"},
		{"long digest", token + someSum + "0a", "sha256 is not 64 hex digits"},
		{"no hex", token + strings.Repeat("zz", 32), "sha256 is not 64 hex digits"},
		{"token without a name", "- name: a\n  tokens:\n  - sha256: " + someSum, "no name"},
		{"token twice", token + someSum + "\n- name: b\n  tokens:\n  - name: y\n    sha256: " + strings.ToUpper(someSum), `b's token "y" is also a's "x"`},
		{"two documents", "- name: a\n  password: " + someHash + "\n---\n- name: b\n  password: " + someHash, "second document"},
		{"broken YAML", "- name: 'a", "u:1:"},
		{"alias", "- &x {name: a, tokens: []}\n- *x", "u:"},
		{"htpasswd with MD5", "alice:" + someHash + "\nbob:$apr1$x$y", "u:2: the password of bob is not a bcrypt hash"},
		{"htpasswd without a colon", "alice:" + someHash + "\nbob", "u:2: no colon"},
		{"htpasswd without a name", "a:" + someHash + "\n:" + someHash, "u:2: a user has no name"},
		{"htpasswd, user twice", "a:" + someHash + "\na:" + someHash, `u:2: the user "a" is there twice`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseUsers("u", []byte(test.in))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %s", err, test.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("it repeats the password")
			}
		})
	}
}

func TestReadUsers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes say nothing there")
	}
	path := filepath.Join(t.TempDir(), "users.yaml")
	if _, err := ReadUsers(path); !os.IsNotExist(err) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		mode     os.FileMode
		ok, warn bool
	}{{0o600, true, false}, {0o640, true, false}, {0o644, true, true}, {0o660, false, false}, {0o602, false, false}} {
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		u, err := ReadUsers(path)
		if (err == nil) != test.ok || err == nil && (len(u.Warnings) > 0) != test.warn {
			t.Errorf("mode %o: %v, %v", test.mode, u, err)
		}
	}
}

func TestHashPassword(t *testing.T) {
	for _, bad := range []string{"", strings.Repeat("x", 73)} {
		if _, err := HashPassword([]byte(bad)); err == nil {
			t.Errorf("%d bytes pass", len(bad))
		}
	}
	hash, err := HashPassword([]byte(strings.Repeat("x", 72)))
	if err != nil || checkHash(hash) != nil {
		t.Errorf("%s, %v", hash, err)
	}
}

func TestNewToken(t *testing.T) {
	a, sum := NewToken()
	b, _ := NewToken()
	if a == b || !strings.HasPrefix(a, "wstun_") || len(a) < len("wstun_")+22 || len(sum) != 64 {
		t.Error(a, b, sum)
	}
}

func FuzzParseUsers(f *testing.F) {
	f.Add([]byte("- name: alice\n  password: " + someHash + "\n  tokens:\n  - name: x\n    sha256: " + someSum))
	f.Add([]byte("alice:" + someHash + "\n"))
	f.Add([]byte("[{name: a, tokens: []}]"))
	f.Add([]byte("- &x a\n- *x\n- !!binary x\n- <<: *x\n- |\n  x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := ParseUsers("users", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "users:") {
				t.Errorf("%v does not name the file", err)
			}
			return
		}
		for name, hash := range u.passwords {
			if checkUserName(name) != nil || checkHash(string(hash)) != nil {
				t.Errorf("%q with %q is listed", name, hash)
			}
		}
	})
}
