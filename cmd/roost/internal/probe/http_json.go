package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/theory/jsonpath"
)

// checkJSONArgs checks json_path and json_equals.
//
// One descendant segment and no absolute query within a filter keep the work proportional to the
// document: with two, a document of a megabyte could cost gigabytes.
func checkJSONArgs(path string, equals any) error {
	if path == "" {
		if equals != nil {
			return errors.New("json_equals: needs json_path")
		}
		return nil
	}
	if len(path) > MaxJSONPathBytes {
		return fmt.Errorf("json_path: longer than %d bytes", MaxJSONPathBytes)
	}
	if _, err := jsonpath.Parse(path); err != nil {
		return fmt.Errorf("json_path: %w", err)
	}
	bare := withoutStrings(path)
	if strings.Count(bare, "..") > 1 {
		return errors.New(`json_path: more than one descendant segment ("..")`)
	}
	if strings.LastIndexByte(bare, '$') > 0 {
		return errors.New(`json_path: "$" within a filter is not allowed, use "@"`)
	}
	if err := checkJSONValue(equals, 0); err != nil {
		return fmt.Errorf("json_equals: %w", err)
	}
	return nil
}

// withoutStrings drops the quoted parts of a JSONPath.
func withoutStrings(path string) string {
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0:
			b.WriteByte(c)
		case c == '\\':
			i++
		case c == quote:
			quote = 0
		}
	}
	return b.String()
}

// checkJSONValue is whether a decoded argument is something that JSON can say.
func checkJSONValue(v any, depth int) error {
	if depth > MaxJSONDepth {
		return fmt.Errorf("deeper than %d levels", MaxJSONDepth)
	}
	switch v := v.(type) {
	case nil, bool, string, json.Number:
		return nil
	case []any:
		for _, e := range v {
			if err := checkJSONValue(e, depth+1); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		for _, e := range v {
			if err := checkJSONValue(e, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if _, ok := numberText(v); !ok {
		return fmt.Errorf("a %T is not a JSON value", v)
	}
	return nil
}

// checkJSONBody is what is wrong with the body, or "".
func checkJSONBody(body []byte, path string, equals any) string {
	if err := scanJSON(body); err != nil {
		return "json_path: " + err.Error()
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return "json_path: the body is not JSON: " + err.Error()
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return "json_path: the body has something after its JSON value"
	}
	nodes, err := selectJSON(doc, path)
	if err != nil {
		return "json_path: " + err.Error()
	}
	if len(nodes) == 0 {
		return fmt.Sprintf("json_path: %s selects nothing", path)
	}
	if equals == nil {
		return ""
	}
	for _, n := range nodes {
		if sameJSON(n, equals) {
			return ""
		}
	}
	got, _ := json.Marshal(nodes[0])
	want, _ := json.Marshal(equals)
	text := fmt.Sprintf("json_path: %s is %s, expected %s", path, cut(string(got), 200), cut(string(want), 200))
	if len(nodes) > 1 {
		text += fmt.Sprintf(" (the first of %d nodes, none equals)", len(nodes))
	}
	return text
}

// selectJSON runs the path. The library panics on some comparisons with a missing node.
func selectJSON(doc any, path string) (nodes []any, err error) {
	defer func() {
		if r := recover(); r != nil {
			nodes, err = nil, fmt.Errorf("%s cannot be evaluated on this document: %v", path, r)
		}
	}()
	p, err := jsonpath.Parse(path)
	if err != nil {
		return nil, err
	}
	return p.Select(doc), nil
}

// scanJSON refuses documents that are too deep or have too many nodes, before they are built.
func scanJSON(b []byte) error {
	depth, nodes := 0, 1
	inString := false
	for i := 0; i < len(b); i++ {
		c := b[i]
		if inString {
			if c == '\\' {
				i++
			} else if c == '"' {
				inString = false
			}
			continue
		}
		switch c {
		case '"':
			inString = true
		case '[', '{':
			depth++
			nodes++
		case ']', '}':
			depth--
		case ',':
			nodes++
		}
		if depth > MaxJSONDepth {
			return fmt.Errorf("the body is deeper than %d levels", MaxJSONDepth)
		}
		if nodes > MaxJSONNodes {
			return fmt.Errorf("the body has more than %d nodes", MaxJSONNodes)
		}
	}
	return nil
}

// sameJSON compares values of a JSON document and of arguments; numbers compare by value.
func sameJSON(a, b any) bool {
	switch x := a.(type) {
	case nil, bool, string:
		return a == b || a == nil && b == nil
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !sameJSON(x[i], y[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k, v := range x {
			w, there := y[k]
			if !there || !sameJSON(v, w) {
				return false
			}
		}
		return true
	}
	x, ok1 := numberText(a)
	y, ok2 := numberText(b)
	return ok1 && ok2 && sameNumber(x, y)
}

// sameNumber compares whole numbers exactly and others as float64.
func sameNumber(x, y string) bool {
	if x == y {
		return true
	}
	xi, err1 := strconv.ParseInt(x, 10, 64)
	yi, err2 := strconv.ParseInt(y, 10, 64)
	if err1 == nil && err2 == nil {
		return xi == yi
	}
	xf, err1 := strconv.ParseFloat(x, 64)
	yf, err2 := strconv.ParseFloat(y, 64)
	return err1 == nil && err2 == nil && xf == yf
}

func numberText(v any) (string, bool) {
	switch n := v.(type) {
	case json.Number:
		return n.String(), true
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return fmt.Sprint(n), true
	case float32:
		return floatText(float64(n), 32)
	case float64:
		return floatText(n, 64)
	}
	return "", false
}

func floatText(f float64, bits int) (string, bool) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return "", false
	}
	return strconv.FormatFloat(f, 'g', -1, bits), true
}
