//go:build linux

package remote

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"sync"
)

// nonceBytes is the size of the nonces, and of the proofs' hash.
const nonceBytes = sha256.Size

// hello is the first message of either side. The worker's first has no proof: it sends
// that when it has seen the coordinator's.
type hello struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"`
	Nonce    []byte `json:"nonce,omitempty"`
	Proof    []byte `json:"proof,omitempty"`
	Clock    string `json:"clock,omitempty"` // of the worker: see [clock]
	Host     string `json:"host,omitempty"`
}

// errRefused is wrapped by what one side has told the other in so many words.
var errRefused = errors.New("refused")

// Version is that of this program: what the build has noted, or, where that does not say
// exactly what was built, what is in the program's file.
var Version = sync.OnceValue(func() string {
	v, exact := "unknown version", false
	if info, ok := debug.ReadBuildInfo(); ok {
		v, exact = describe(info)
	}
	if exact {
		return v
	}
	return v + ", build " + ownHash()
})

// describe tells what the build has noted; exact means that nothing else was built in.
func describe(info *debug.BuildInfo) (v string, exact bool) {
	v = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			exact = true
			if short := s.Value[:min(12, len(s.Value))]; !strings.Contains(v, short) {
				v += " " + short
			}
		case "vcs.modified":
			if s.Value == "true" {
				return v, false
			}
		}
	}
	return v, exact
}

// ownHash is the beginning of the hash of the program's file.
func ownHash() string {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "unknown"
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// clock names the monotonic clock of this process: processes that see the same boot, and
// no offset of a time namespace between them, read the same one.
func clock() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	offsets, _ := os.ReadFile("/proc/self/timens_offsets") // a kernel without them has none
	return strings.Join(append(strings.Fields(string(boot)), strings.Fields(string(offsets))...), " ")
}

// proof shows that its maker has the token, to who made one of the nonces.
func proof(token, role string, worker, coordinator []byte) []byte {
	h := hmac.New(sha256.New, []byte(token))
	h.Write([]byte("roost loadtest " + role + "\x00"))
	h.Write(worker)
	h.Write(coordinator)
	return h.Sum(nil)
}

func newNonce() []byte {
	n := make([]byte, nonceBytes)
	_, _ = rand.Read(n) // cannot fail
	return n
}

// sameVersion compares what a peer says with what this side is.
func sameVersion(theirs *hello, mine, they, we string) error {
	if theirs.Protocol == protocolVersion && theirs.Version == mine {
		return nil
	}
	return fmt.Errorf("%w: the versions differ: %s is %s (protocol %d), %s is %s (protocol %d); run the same build on both",
		errRefused, they, theirs.Version, theirs.Protocol, we, mine, protocolVersion)
}

// firstHello reads a peer's first message.
func (w *wire) firstHello() (*hello, error) {
	m, err := w.receive(maxHelloBytes)
	switch {
	case err != nil:
		return nil, err
	case m.Refusal != "":
		return nil, fmt.Errorf("%w: %s", errRefused, m.Refusal)
	case m.Hello == nil:
		return nil, errors.New("its first message is no hello")
	}
	return m.Hello, nil
}

// greetCoordinator is a worker's side of the beginning. free reports whether the worker
// has time for this coordinator, or why not.
func (w *wire) greetCoordinator(token, version, clock string, free func() error) error {
	host, _ := os.Hostname() // for people alone
	nonce := newNonce()
	if err := w.send(&message{Hello: &hello{Protocol: protocolVersion, Version: version, Nonce: nonce, Clock: clock, Host: host}}); err != nil {
		return err
	}
	theirs, err := w.firstHello()
	if err != nil {
		return err
	}
	if err = sameVersion(theirs, version, "the coordinator", "the worker"); err == nil {
		if len(theirs.Nonce) != nonceBytes || !hmac.Equal(theirs.Proof, proof(token, "coordinator", nonce, theirs.Nonce)) {
			err = fmt.Errorf("%w: the coordinator's token is not that of the worker", errRefused)
		} else {
			err = free()
		}
	}
	if err != nil {
		w.refuse(strings.TrimPrefix(err.Error(), errRefused.Error()+": "))
		return err
	}
	return w.send(&message{Hello: &hello{Protocol: protocolVersion, Version: version, Proof: proof(token, "worker", nonce, theirs.Nonce)}})
}

// greetWorker is the coordinator's side. It returns what the worker says of itself.
func (w *wire) greetWorker(token, version string) (*hello, error) {
	theirs, err := w.firstHello()
	if err != nil {
		return nil, err
	}
	if err := sameVersion(theirs, version, "the worker", "the coordinator"); err != nil {
		w.refuse(strings.TrimPrefix(err.Error(), errRefused.Error()+": "))
		return nil, err
	}
	if len(theirs.Nonce) != nonceBytes {
		return nil, errors.New("its hello has no nonce")
	}
	nonce := newNonce()
	err = w.send(&message{Hello: &hello{Protocol: protocolVersion, Version: version, Nonce: nonce, Proof: proof(token, "coordinator", theirs.Nonce, nonce)}})
	if err != nil {
		return nil, err
	}
	second, err := w.firstHello()
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(second.Proof, proof(token, "worker", theirs.Nonce, nonce)) {
		return nil, fmt.Errorf("%w: the worker's token is not that of the coordinator", errRefused)
	}
	return theirs, nil
}
