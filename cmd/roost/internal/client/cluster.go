package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/roost-server/roost/cmd/roost/internal/api"
)

// Members returns the members of the cluster, the one that is asked first.
func (c *Client) Members(ctx context.Context) (api.MemberList, error) {
	var list api.MemberList
	err := c.call(ctx, http.MethodGet, "/v1/members", nil, &list)
	return list, err
}

// Tree returns the supervision tree of a member, or with an empty name of all.
func (c *Client) Tree(ctx context.Context, member string) (api.TreeList, error) {
	q := url.Values{}
	set(q, "member", member)
	var list api.TreeList
	err := c.call(ctx, http.MethodGet, "/v1/tree?"+q.Encode(), nil, &list)
	return list, err
}

// Drain has a member send its nodes and partitions to others, and returns when it has begun.
func (c *Client) Drain(ctx context.Context, member string, r api.DrainRequest) (api.MemberView, error) {
	var v api.MemberView
	err := c.post(ctx, drainPath(member), r, &v)
	return v, err
}

// Undrain lets a member serve again.
func (c *Client) Undrain(ctx context.Context, member string) (api.MemberView, error) {
	var v api.MemberView
	err := c.call(ctx, http.MethodDelete, drainPath(member), nil, &v)
	return v, err
}

// Rebalance spreads the nodes over the members, and returns what has begun.
func (c *Client) Rebalance(ctx context.Context, r api.RebalanceRequest) (api.RebalanceView, error) {
	var v api.RebalanceView
	err := c.post(ctx, "/v1/rebalance", r, &v)
	return v, err
}

func drainPath(member string) string { return "/v1/members/" + url.PathEscape(member) + "/drain" }

func (c *Client) post(ctx context.Context, path string, body, out any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	return c.call(ctx, http.MethodPost, path, b, out)
}
