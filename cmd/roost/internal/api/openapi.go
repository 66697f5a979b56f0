package api

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

func init() {
	// JSON names are compared as the document has them, and errors are of our own type; process-wide,
	// and only this package uses it.
	huma.ValidateStrictCasing = true
	huma.NewError = newProblem
}

const bearerScheme = "bearer"

// openAPIConfig leaves out what the defaults would serve besides the endpoints: a page of
// documentation that loads scripts from elsewhere, and links to schemas within bodies.
func openAPIConfig(cfg *Config) huma.Config {
	c := huma.DefaultConfig("Roost member API", cfg.Version)
	c.Info.Description = "Submit jobs, follow their outcomes, and look at nodes and the member."
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil
	c.RejectUnknownQueryParameters = true
	c.Transformers = []huma.Transformer{trimProblem}
	c.Tags = []*huma.Tag{
		{Name: "jobs", Description: "What is to run, and what came of it"},
		{Name: "nodes", Description: "Who is connected"},
		{Name: "member", Description: "The process that serves this API"},
		{Name: "cluster", Description: "The members, and what operators do with them"},
	}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		bearerScheme: {Type: "http", Scheme: "bearer", Description: "The member's api.token, when one is set"},
	}
	if cfg.Token != "" {
		c.Security = []map[string][]string{{bearerScheme: {}}}
	}
	return c
}

// errors are the statuses of errors that an endpoint can answer with, and those that all can.
func (s *Server) errors(statuses ...int) []int {
	if s.cfg.Token != "" {
		return append(statuses, http.StatusUnauthorized, http.StatusInternalServerError)
	}
	if !s.cfg.AllowOpen {
		statuses = append(statuses, http.StatusMisdirectedRequest)
	}
	return append(statuses, http.StatusInternalServerError)
}

// serveDocument adds the endpoints that serve the OpenAPI document, as it is from now on.
func (s *Server) serveDocument() error {
	doc := s.huma.OpenAPI()
	asJSON, err := doc.MarshalJSON()
	if err != nil {
		return fmt.Errorf("api: OpenAPI document: %w", err)
	}
	asYAML, err := doc.YAML()
	if err != nil {
		return fmt.Errorf("api: OpenAPI document: %w", err)
	}
	page, err := docsPage(doc)
	if err != nil {
		return fmt.Errorf("api: documentation page: %w", err)
	}
	serve := func(path, contentType string, body []byte) {
		s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
			_, _ = w.Write(body) // a failed write means that the client is gone
		})
	}
	serve("/openapi.json", "application/json", asJSON)
	serve("/openapi.yaml", "application/yaml", asYAML)
	serve("/docs", "text/html; charset=utf-8", page)
	return nil
}

var docsTemplate = template.Must(template.New("docs").Parse(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
code { font-size: 0.95em; } dt { margin-top: 1rem; } dd { margin-left: 1.5rem; } p { white-space: pre-line; }
</style>
</head>
<body>
<h1>{{.Title}} <small>{{.Version}}</small></h1>
<p>{{.Description}} The whole of it is in <a href="/openapi.json">openapi.json</a> and <a href="/openapi.yaml">openapi.yaml</a> (OpenAPI 3.1).</p>
{{range .Tags}}<h2>{{.Name}}</h2>
<dl>
{{range .Operations}}<dt id="{{.ID}}"><code>{{.Method}} {{.Path}}</code></dt>
<dd>{{.Summary}}{{with .Description}}<p>{{.}}</p>{{end}}
{{range .Parameters}}<div><code>{{.Name}}</code> ({{.In}}) {{.Description}}</div>
{{end}}</dd>
{{end}}</dl>
{{end}}</body>
</html>
`))

type docsOperation struct {
	ID, Method, Path, Summary, Description string
	Parameters                             []*huma.Param
}

type docsTag struct {
	Name       string
	Operations []docsOperation
}

func docsPage(doc *huma.OpenAPI) ([]byte, error) {
	data := struct {
		Title, Version, Description string
		Tags                        []docsTag
	}{Title: doc.Info.Title, Version: doc.Info.Version, Description: doc.Info.Description}
	for _, tag := range doc.Tags {
		t := docsTag{Name: tag.Name}
		for path, item := range doc.Paths {
			for _, op := range []*huma.Operation{item.Get, item.Post, item.Delete} {
				if op != nil && slices.Contains(op.Tags, tag.Name) {
					t.Operations = append(t.Operations, docsOperation{
						op.OperationID, op.Method, path, op.Summary, op.Description, op.Parameters,
					})
				}
			}
		}
		slices.SortFunc(t.Operations, func(a, b docsOperation) int {
			return strings.Compare(a.Path+a.Method, b.Path+b.Method)
		})
		data.Tags = append(data.Tags, t)
	}
	var b bytes.Buffer
	err := docsTemplate.Execute(&b, data)
	return b.Bytes(), err
}
