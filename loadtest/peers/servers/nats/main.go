// Command nats is the NATS server, core subjects alone. The dispatcher's connection may
// have as much waiting as a window of jobs is.
package main

import (
	"flag"
	"log"
	"net/netip"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	flag.Parse()
	at, err := netip.ParseAddrPort(*listen)
	if err != nil {
		log.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{Host: at.Addr().String(), Port: int(at.Port()), NoLog: true, NoSigs: true, MaxPending: 256 << 20})
	if err != nil {
		log.Fatal(err)
	}
	s.Start()
	s.WaitForShutdown()
}
