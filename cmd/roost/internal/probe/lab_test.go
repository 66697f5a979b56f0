//go:build linux

package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The lab is a network of its own: a client, a router and a host, each a process of this test binary
// in a network namespace without a name, joined by veth pairs, with public addresses that nobody else
// sees. A namespace ends with its last process, and the processes end with their standard input, so
// that nothing stays behind however a test ends.
//
//	client 11.0.1.1 ── 11.0.1.254 router 11.0.2.254 ── 11.0.2.1 host
//
// The router has no limit on ICMP errors (empty masks), drops what goes to 11.0.3.0/24, and sends what
// goes to 11.0.2.9 to a link address that nobody has.
const (
	labRole    = "ROOST_PROBE_LAB"
	roleClient = "client" // runs TestInLab
	roleRouter = "router"
	roleHost   = "host"
	roleKinds  = "kinds" // prints what Kinds says, and pings loopback

	hostIP   = "11.0.2.1"
	routerIP = "11.0.1.254"
	clientIP = "11.0.1.1"
	hostIP6  = "2a00:11:2::1"
	gateIP6  = "2a00:11:1::fe"
)

// playRole is the main function of the lab's other processes.
func playRole(role string) int {
	var err error
	switch role {
	case roleRouter:
	case roleHost:
		err = serveHost()
	case roleKinds:
		err = printKinds()
	default:
		err = fmt.Errorf("no such role: %s", role)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until whoever started it ends
	return 0
}

// serveHost answers on wildcard addresses, before the host has any.
func serveHost() error {
	web, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "the host") })
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
	})
	go func() { _ = http.Serve(web, mux) }() //nolint:gosec // ends with the process
	names, err := net.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	z := &zone{asked: make(map[string]int), answers: map[string][][]string{"www.example. A": {{"192.0.2.1"}}}}
	go func() { _ = (&dns.Server{PacketConn: names, Handler: dns.HandlerFunc(z.serve)}).ActivateAndServe() }()
	return nil
}

type kindsReport struct {
	Names   []string
	Missing map[string]string
	Ping    string // why a ping of loopback failed
}

func printKinds() error {
	kinds, missing := Kinds(private)
	r := kindsReport{Missing: missing, Ping: "not run"}
	for _, k := range kinds {
		r.Names = append(r.Names, k.Name())
		if k.Name() != "ping" {
			continue
		}
		out, err := k.Run(context.Background(), func(v any) error {
			*v.(*PingArgs) = PingArgs{Host: "127.0.0.1", Count: 2, IntervalMs: 10}
			return nil
		})
		if r.Ping = out.Reason; err != nil {
			r.Ping = err.Error()
		}
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// start runs this binary in a role and in a new network namespace, and returns its process and its
// first lines up to "ready".
func start(t *testing.T, role string) (pid int, said []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), labRole+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if role != roleKinds {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "ready" {
			return cmd.Process.Pid, said
		}
		said = append(said, lines.Text())
	}
	require.Failf(t, "did not start", "%s: %s", role, said)
	return 0, nil
}

// TestLab runs TestInLab in the client's namespace.
func TestLab(t *testing.T) {
	if os.Getenv(labRole) != "" {
		return // this is the client
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestInLab$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), labRole+"="+roleClient)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the signal comes when the thread ends that started the process
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if os.IsPermission(err) {
		t.Skipf("needs CAP_NET_ADMIN for network namespaces: %v", err)
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: TestInLab/", "%s", out)
	require.NotContains(t, string(out), "--- SKIP", "%s", out)
}

func sh(t *testing.T, script string) {
	t.Helper()
	for line := range strings.Lines(script) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput()
		require.NoError(t, err, "%s: %s", line, out)
	}
}

// buildLab wires the client (this process), the router and the host.
func buildLab(t *testing.T) {
	t.Helper()
	router, _ := start(t, roleRouter)
	host, _ := start(t, roleHost)
	r, h := fmt.Sprintf("nsenter -t %d -n", router), fmt.Sprintf("nsenter -t %d -n", host)
	script := `
ip link set lo up
ip link add c0 type veth peer name r0
ip link set r0 netns ROUTERPID
R ip link add r1 type veth peer name h0
R ip link set h0 netns HOSTPID
ip addr add 11.0.1.1/24 dev c0
ip addr add 2a00:11:1::1/64 dev c0 nodad
ip link set c0 up
R ip addr add 11.0.1.254/24 dev r0
R ip addr add 2a00:11:1::fe/64 dev r0 nodad
R ip addr add 11.0.2.254/24 dev r1
R ip addr add 2a00:11:2::fe/64 dev r1 nodad
R ip link set lo up
R ip link set r0 up
R ip link set r1 up
R sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratemask=0 net.ipv6.icmp.ratemask=127
R ip route add blackhole 11.0.3.0/24
R ip route add unreachable 11.0.4.0/24
R ip route add prohibit 11.0.5.0/24
R ip -6 route add blackhole 2a00:11:3::/64
H ip addr add 11.0.2.1/24 dev h0
H ip addr add 2a00:11:2::1/64 dev h0 nodad
H ip link set lo up
H ip link set h0 up
H sysctl -qw net.ipv4.icmp_ratemask=0 net.ipv6.icmp.ratemask=127
R ip neigh add 11.0.2.9 lladdr 02:00:00:00:00:99 dev r1
H ip route add default via 11.0.2.254
H ip -6 route add default via 2a00:11:2::fe
ip route add default via 11.0.1.254
ip -6 route add default via 2a00:11:1::fe
ip route add prohibit 11.0.6.0/24
`
	script = strings.NewReplacer("\nR ", "\n"+r+" ", "\nH ", "\n"+h+" ", "ROUTERPID", fmt.Sprint(router), "HOSTPID", fmt.Sprint(host)).Replace(script)
	sh(t, script)
}

// withoutRaw runs the kinds role without CAP_NET_RAW, as a node of an ordinary user.
func withoutRaw(t *testing.T) kindsReport {
	t.Helper()
	done := make(chan kindsReport)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread has lost the capability for good
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_RAW, 0, 0, 0); err != nil {
			t.Errorf("prctl: %v", err)
			return
		}
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), labRole+"="+roleKinds)
		out, err := cmd.Output() // no standard input: it ends by itself
		var r kindsReport
		if first, _, _ := strings.Cut(string(out), "\n"); err != nil || json.Unmarshal([]byte(first), &r) != nil {
			t.Errorf("%v: %s", err, out)
		}
		done <- r
	}()
	return <-done
}
