package protocol

// Every limit of the protocol, with its reason. SPEC.md repeats them; a test
// compares the two.
const (
	// MaxBodyBytes caps one frame's body. A result has to fit a Kafka record, whose
	// usual maximum is 1 MiB, with room for the record's own fields.
	MaxBodyBytes = 512 << 10

	// MaxHelloBodyBytes caps the body of HELLO and PROOF: it is all that an
	// unauthenticated peer can make a member hold. A HELLO with every field at its
	// own limit fits.
	MaxHelloBodyBytes = 48 << 10

	// MaxDepth caps the nesting of a body: how many arrays and maps may be around a
	// value. Go cannot recover from a stack overflow, and no honest argument or
	// output comes near it.
	MaxDepth = 16

	// MaxPayloadDepth is the same for a payload alone, which lies in the body's array.
	MaxPayloadDepth = MaxDepth - 1

	// MaxVersion caps the version numbers in HELLO and WELCOME: 16 bits.
	MaxVersion = 1<<16 - 1

	// MaxNodeIDBytes fits a UUID, a hostname or a serial number, and keeps the
	// directory small.
	MaxNodeIDBytes = 128

	// MaxJobIDBytes fits a UUID or a ULID with a prefix of the producer's own.
	MaxJobIDBytes = 128

	// MaxKindBytes fits a dotted name such as "com.example.http".
	MaxKindBytes = 64

	// MaxPayloadBytes caps a job's arguments, a result's output and one progress
	// report, each counted as encoded msgpack.
	MaxPayloadBytes = 448 << 10

	// MaxErrorBytes caps a result's error text: a sentence, not a log.
	MaxErrorBytes = 4 << 10

	// MaxTextBytes caps every other text: close messages, agent names, cities,
	// platforms, cancel reasons.
	MaxTextBytes = 256

	// MaxCountryBytes fits ISO 3166-1 alpha-2 and alpha-3 codes.
	MaxCountryBytes = 3

	// MaxTags caps a node's tags, and MaxTagBytes one tag.
	MaxTags     = 32
	MaxTagBytes = 64

	// MaxKinds caps the job kinds that a node offers.
	MaxKinds = 64

	// MaxCredentialBytes fits a signed token; MaxProofBytes a signature with a
	// certificate chain; MaxNonceBytes a challenge.
	MaxCredentialBytes = 4 << 10
	MaxProofBytes      = 16 << 10
	MaxNonceBytes      = 256

	// MaxResume caps each of the two lists of HELLO: assignments running and
	// results held. A node with more sends the rest as RESULT frames after WELCOME.
	MaxResume = 128

	// MaxAcks caps the assignments acknowledged by one RESULT_ACK.
	MaxAcks = 1024

	// MaxCredit caps how many jobs a node may ask for at once.
	MaxCredit = 4096

	// MaxAttempts caps the attempts of an assignment.
	MaxAttempts = 100

	// MaxAddresses and MaxAddressBytes cap the addresses in GOAWAY.
	MaxAddresses    = 16
	MaxAddressBytes = 262 // a DNS name of 253 bytes, a colon and a port

	// MaxTimeoutMs caps an attempt's timeout: a day.
	MaxTimeoutMs = 24 * 60 * 60 * 1000

	// MaxPriority is the highest priority of a job; 0 is the lowest.
	MaxPriority = 9
)
