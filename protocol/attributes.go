package protocol

// Attributes say where and what a node is; selectors choose nodes by them.
// On the wire: [country, city, asn, platform, tags, kinds].
type Attributes struct {
	Country  string   // ISO 3166-1, upper case, such as "AU"; empty when unknown
	City     string   // free text, compared as it is
	ASN      uint32   // autonomous system number; 0 when unknown
	Platform string   // such as "linux/arm64"
	Tags     []string // the owner's own labels
	Kinds    []string // the job kinds that the node runs
}

// AttributesUpdate is ATTRIBUTES: the node's attributes changed; these replace the
// ones before.
type AttributesUpdate struct{ Attributes Attributes }

// Type implements [Message].
func (*AttributesUpdate) Type() Type { return TypeAttributes }

func (m *AttributesUpdate) encode(e *Encoder) {
	e.array(1)
	e.attributes(&m.Attributes)
}

func (m *AttributesUpdate) decode(d *Decoder) { m.Attributes = d.attributes(true) }

func (e *Encoder) attributes(a *Attributes) {
	e.array(6)
	e.str("country", a.Country, MaxCountryBytes)
	e.str("city", a.City, MaxTextBytes)
	e.uint("asn", uint64(a.ASN), 1<<32-1)
	e.str("platform", a.Platform, MaxTextBytes)
	e.strs("tags", a.Tags, MaxTags, MaxTagBytes)
	e.strs("kinds", a.Kinds, MaxKinds, MaxKindBytes)
}

func (d *Decoder) attributes(required bool) (a Attributes) {
	if !d.next("attributes", required) {
		return a
	}
	d.nested("attributes", func() {
		a.Country = d.str("country", false, MaxCountryBytes)
		a.City = d.str("city", false, MaxTextBytes)
		a.ASN = uint32(d.uint("asn", false, 1<<32-1))
		a.Platform = d.str("platform", false, MaxTextBytes)
		a.Tags = d.strs("tags", MaxTags, MaxTagBytes)
		a.Kinds = d.strs("kinds", MaxKinds, MaxKindBytes)
	})
	return a
}
