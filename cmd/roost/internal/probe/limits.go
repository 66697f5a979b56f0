package probe

import "time"

// Limits of all kinds. Arguments over them are refused; what a target sends over them is cut.
const (
	// MaxOutputBytes is the size that the msgpack form of every output stays under: a result has to
	// fit, with room to spare, into one frame and one Kafka record. The limits below are chosen so
	// that their sum does.
	MaxOutputBytes = 200 << 10
	// MaxReasonBytes cuts reasons: they are read by people, in tables and logs.
	MaxReasonBytes = 1024
	// MaxTimeoutMs is the longest timeout that arguments may ask for; a check that needs more than
	// ten minutes holds a slot of the node for no good.
	MaxTimeoutMs = 600_000
	// MaxHostBytes is the longest host name of DNS in text form (RFC 1035 §2.3.4).
	MaxHostBytes = 253
	// MaxDialAddrs is how many addresses of one name are tried.
	MaxDialAddrs = 8
	// MaxExpectBytes is the longest text or pattern to look for.
	MaxExpectBytes = 4 << 10
)

// Limits of http.
const (
	// DefaultMaxBodyBytes is how much of a body is read when Options say nothing: enough for health
	// and API documents, small enough for hundreds of jobs at once.
	DefaultMaxBodyBytes = 1 << 20
	// MaxURLBytes is what common servers accept in a request line.
	MaxURLBytes = 8 << 10
	// MaxHeaders and MaxHeaderBytes are what common servers accept in a request.
	MaxHeaders     = 64
	MaxHeaderBytes = 8 << 10
	// MaxRequestBodyBytes is the longest body to send: a check, not an upload.
	MaxRequestBodyBytes = 64 << 10
	// MaxResponseHeaderBytes bounds what a server can make the node hold before the body.
	MaxResponseHeaderBytes = 64 << 10
	// MaxRedirects is what browsers and curl tolerate, rounded down.
	MaxRedirects = 10
	// MaxBodyExcerptBytes is the longest excerpt of a body in an output.
	MaxBodyExcerptBytes = 16 << 10
	// MaxStatuses is how many ranges of status an expectation may list.
	MaxStatuses = 32
	// MaxJSONPathBytes is the longest JSONPath.
	MaxJSONPathBytes = 512
	// MaxJSONDepth and MaxJSONNodes bound documents that a JSONPath runs over: a filter walks below
	// every node, so time and memory are their product at worst.
	MaxJSONDepth = 64
	MaxJSONNodes = 200_000
	// MaxCertificateNames is how many names of a certificate are reported; shared hosts have more.
	MaxCertificateNames = 100
)

// Limits of tcp and udp.
const (
	// MaxTCPSendBytes is the longest text to send over TCP.
	MaxTCPSendBytes = 8 << 10
	// MaxUDPSendBytes is what fits one Ethernet frame over IPv4: larger ones are split, and measure
	// something else.
	MaxUDPSendBytes = 1472
	// MaxTCPReadBytes is how much is read while waiting for the expected text.
	MaxTCPReadBytes = 64 << 10
	// MaxUDPReplies is how many datagrams are looked at for the expected text.
	MaxUDPReplies = 16
	// MaxReceivedExcerptBytes is how much of what came is reported.
	MaxReceivedExcerptBytes = 1 << 10
	// DefaultUDPTimeoutMs is the wait for a reply when the arguments say nothing; datagrams get lost,
	// so some limit is needed.
	DefaultUDPTimeoutMs = 5_000
	// udpErrorWait is how long a datagram without expected reply waits for "port unreachable": one
	// round trip to nearly anywhere on Earth.
	udpErrorWait = 300 * time.Millisecond
)

// Limits of dns.
const (
	// DefaultDNSTimeoutMs and DNSTries are the defaults of resolv.conf(5), with a shorter wait.
	DefaultDNSTimeoutMs = 3_000
	DNSTries            = 2
	// MaxDNSServers is how many servers of resolv.conf are tried (MAXNS of resolv.conf(5)).
	MaxDNSServers = 3
	// MaxDNSExpect is how many values an expectation may list.
	MaxDNSExpect = 32
	// MaxDNSAnswers, MaxDNSValueBytes and MaxDNSAnswerBytes cut what is reported: the text form of a
	// 64 KiB message can be four times as long as the message.
	MaxDNSAnswers     = 256
	MaxDNSValueBytes  = 4 << 10
	MaxDNSAnswerBytes = 96 << 10
	// dnsUDPSize is the EDNS buffer size that avoids fragments (DNS flag day 2020).
	dnsUDPSize = 1232
	// maxStrayReplies is how many datagrams that do not answer the question are skipped.
	maxStrayReplies = 32
)

// Limits of ping and traceroute.
const (
	// MaxPingCount bounds one job's packets; more is monitoring, which is many jobs.
	MaxPingCount = 100
	// MinPingIntervalMs keeps a job from being a flood; ping(8) asks for root below 2 ms.
	MinPingIntervalMs = 10
	// MaxPingIntervalMs keeps a count of packets within reach of a job's timeout.
	MaxPingIntervalMs = 10_000
	// MinPingSize is what carries the time and the identity of a packet.
	MinPingSize = 24
	// MaxPingSize fits a jumbo frame (9000 bytes, less 28 of headers).
	MaxPingSize = 8972
	// MaxReplyWaitMs is the longest wait for one reply of ping or traceroute.
	MaxReplyWaitMs = 30_000
	// MaxHops is the default TTL of common systems: nothing farther is reached in practice.
	MaxHops = 64
	// MaxProbesPerHop bounds probes: routers answer about one a second anyway.
	MaxProbesPerHop = 10
)
