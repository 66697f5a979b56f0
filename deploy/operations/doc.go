// Command operations runs the commands of docs/OPERATIONS.md, one block after the other, on
// hosts that it makes of network namespaces on this machine: so that the document is
// true. It needs root, iproute2, dpkg and haproxy, and touches nothing outside: each host has
// its own /etc, /usr, /var and /root over those of this machine.
//
// What the hosts lack is stood in for: scp copies, apt-get calls dpkg, and systemctl starts
// what the installed unit says, as the user that it says. Kafka is the embedded broker.
//
//	go run ./deploy/operations            all of it
//	go run ./deploy/operations -keep      leaves the hosts' files for a look
package main
