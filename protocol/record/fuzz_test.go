package record

import (
	"bytes"
	"encoding/json"
	"reflect"
	"runtime/metrics"
	"testing"

	"github.com/roost-server/roost/protocol"
)

// bounded runs f and fails when it allocated far more than there was input.
func bounded(t *testing.T, input []byte, f func()) {
	t.Helper()
	read := func() uint64 {
		s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	var n uint64
	for range 4 { // the runtime counts small ones late, so a single look may see others
		before := read()
		f()
		if n = read() - before; n <= uint64(128*len(input)+512<<10) {
			return
		}
	}
	t.Fatalf("%d bytes allocated for %d", n, len(input))
}

func FuzzParseJob(f *testing.F) {
	for _, value := range benchRecords(f) {
		f.Add("", value)
	}
	for _, s := range []string{
		`{"id":"j","kind":"k","target":{"nodes":["a","b"]},"args":[1,1.0,"é",null],"ttl_ms":5}`,
		`{"id":"j","kind":"k","target":{"select":{"country":"AU","city":"x","asn":7,"platform":"p","tags":["t"],"count":3}},"priority":9,"tenant":"t"}`,
		`{"id":"j","kind":"k","target":{"node":"n"},"deadline_ms":1,"not_before_ms":2,"attempts":100}`,
		`{"id":"j","kind":"k","target":{"node":"n"},"backoff_ms":0,"cancel":false}`, `{"id":"j","cancel":true,"reason":"r","tenant":"t"}`,
		`{"id":"j","id":"k"}`, `{"bad":[[[[1]]]],"id":"j"}`,
	} {
		f.Add(ContentJSON, []byte(s))
		mp, err := FromJSON([]byte(s))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(ContentMsgpack, mp)
	}
	f.Fuzz(func(t *testing.T, contentType string, value []byte) {
		var j Job
		var err error
		given := bytes.Clone(value)
		bounded(t, value, func() { j, err = ParseJob(contentType, value) })
		if !bytes.Equal(given, value) {
			t.Fatal("the record was changed")
		}
		if err != nil {
			if j.ID != "" && checkID("id", j.ID, protocol.MaxJobIDBytes) != nil || j.Target.Size() != 0 || j.Args != nil {
				t.Fatalf("%+v comes with %v", j, err)
			}
			if len(err.Error()) > 4096 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if err := j.Validate(); err != nil {
			t.Fatalf("parsed %+v, which is not valid: %v", j, err)
		}
		if n := j.Target.Size(); n < 1 != j.Cancel || n > MaxTargets || j.Key() == "" {
			t.Fatalf("size %d, key %q", n, j.Key())
		}
		writeAgain(t, j, j.Encoding)
		writeAgain(t, j, Msgpack)
	})
}

// writeAgain writes a job and reads the same back.
func writeAgain(t *testing.T, j Job, enc Encoding) {
	j.Encoding = enc
	b, err := AppendJob(nil, &j)
	if err != nil {
		t.Fatalf("parsed %+v, which cannot be written: %v", j, err)
	}
	back, err := ParseJob("", b)
	if err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	if enc == JSON {
		back.Args, j.Args = asJSON(t, back.Args), asJSON(t, j.Args)
	}
	if !reflect.DeepEqual(j, back) {
		t.Fatalf("%+v\n%+v", j, back)
	}
}

func asJSON(t *testing.T, b []byte) []byte {
	if b == nil {
		return nil
	}
	out, err := ToJSON(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func FuzzParseResult(f *testing.F) {
	r := sampleResult()
	var rw ResultWriter
	for _, enc := range []Encoding{JSON, Msgpack} {
		b, err := rw.Append(nil, enc, &r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(enc.ContentType(), b)
	}
	f.Add("", []byte(`{"outcome":"lost","output_msgpack":"gYAB","later":[1],"duration_ms":1.0005}`))
	f.Fuzz(func(t *testing.T, contentType string, value []byte) {
		var r Result
		var err error
		bounded(t, value, func() { r, err = ParseResult(contentType, value) })
		if err != nil {
			return
		}
		for _, enc := range []Encoding{Msgpack, JSON} {
			b, err := rw.Append(nil, enc, &r)
			if err != nil {
				if protocol.CheckPayload(r.Output) == nil {
					t.Fatalf("parsed %+v, which cannot be written: %v", r, err)
				}
				continue // deeper than a node can say
			}
			first, err := ParseResult("", b)
			if err != nil {
				t.Fatalf("%q: %v", b, err)
			}
			b2, err := rw.Append(nil, enc, &first)
			if err != nil {
				t.Fatal(err)
			}
			second, err := ParseResult("", b2)
			if err != nil || !bytes.Equal(b, b2) && enc == JSON || !reflect.DeepEqual(first, second) {
				t.Fatalf("%q\n%q: %v", b, b2, err)
			}
		}
	})
}

func FuzzParseProgress(f *testing.F) {
	f.Add(AppendProgress(nil, &Progress{Partition: 3, Offset: 1041, JobMs: 1790000000000, TimeMs: 1790000000431, Member: "roost-1"}))
	f.Add([]byte(`{"partition":2147483647,"offset":9223372036854775807,"job_ms":-1,"member":"\ud800\u0000","later":[1]}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		var p Progress
		var err error
		bounded(t, value, func() { p, err = ParseProgress(value) })
		if err != nil {
			return
		}
		b := AppendProgress(nil, &p)
		if back, err := ParseProgress(b); err != nil || back != p || !json.Valid(b) {
			t.Fatalf("%+v\n%s\n%+v: %v", p, b, back, err)
		}
	})
}

func FuzzFromJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,-1,1.5,1e3,18446744073709551615,true,false,null,"é\u00e9\ud800"]}`, `[]`, `{}`, ` "x" `, `[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]`, `{"a":1,"a":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, js []byte) {
		var mp []byte
		var err error
		bounded(t, js, func() { mp, err = FromJSON(js) })
		if err != nil {
			if mp != nil {
				t.Fatal("a value comes with an error")
			}
			return
		}
		if !json.Valid(js) {
			t.Fatal("not JSON")
		}
		if end, err := protocol.Scan(mp); err != nil || end != len(mp) {
			t.Fatal(end, err)
		}
		back, err := ToJSON(mp)
		if err != nil || !json.Valid(back) {
			t.Fatalf("%q: %v", back, err)
		}
		again, err := FromJSON(back)
		if err != nil || !bytes.Equal(mp, again) {
			t.Fatalf("%q\n% x\n% x: %v", back, mp, again, err)
		}
		var a, b any
		if json.Unmarshal(js, &a) != nil || json.Unmarshal(back, &b) != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("%q\n%q", js, back)
		}
	})
}

func FuzzToJSON(f *testing.F) {
	for _, value := range benchRecords(f) {
		f.Add(value)
	}
	f.Add([]byte{0x95, 0xd4, 0xff, 5, 0xc7, 0, 7, 0xca, 0x7f, 0xc0, 0, 0, 0xc4, 1, 1, 0x81, 1, 0xa1, 0xff})
	f.Add([]byte{0x82, 0x90, 1, 0x81, 1, 1, 1})
	f.Fuzz(func(t *testing.T, mp []byte) {
		var js []byte
		var err error
		bounded(t, mp, func() { js, err = ToJSON(mp) })
		if err != nil {
			return
		}
		if !json.Valid(js) {
			t.Fatalf("%q is not JSON", js)
		}
		first, err := FromJSON(js)
		if err != nil {
			t.Fatalf("%q: %v", js, err)
		}
		second, err := ToJSON(first)
		if err != nil || !bytes.Equal(js, second) {
			t.Fatalf("%q\n%q: %v", js, second, err)
		}
	})
}
