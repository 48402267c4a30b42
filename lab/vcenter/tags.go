package main

import (
	"context"
	"sort"

	"github.com/vmware/govmomi/vapi/rest"
	"github.com/vmware/govmomi/vapi/tags"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"net/url"
)

// tagContents are the tag categories, tags, and what they are attached to.
type tagContents struct {
	Categories []tags.Category `json:"categories"`
	Tags       []tags.Tag      `json:"tags"`
	// Attached maps a tag's id to objects in the form "VirtualMachine:vm-57".
	Attached map[string][]string `json:"attached"`
}

// tagStore reads and restores tags. The simulator keeps them inside its REST service, so both go through that.
type tagStore interface {
	read() (tagContents, error)
	restore(tagContents) error
}

type restTags struct {
	client *vim25.Client
	user   *url.Userinfo
}

func (r restTags) session(work func(context.Context, *tags.Manager) error) error {
	ctx := context.Background()
	client := rest.NewClient(r.client)
	if err := client.Login(ctx, r.user); err != nil {
		return err
	}
	defer func() { _ = client.Logout(ctx) }()
	return work(ctx, tags.NewManager(client))
}

func (r restTags) read() (tagContents, error) {
	contents := tagContents{Attached: map[string][]string{}}
	err := r.session(func(ctx context.Context, m *tags.Manager) error {
		categories, err := m.GetCategories(ctx)
		if err != nil {
			return err
		}
		contents.Categories = categories
		if contents.Tags, err = m.GetTags(ctx); err != nil {
			return err
		}
		for _, tag := range contents.Tags {
			objects, err := m.ListAttachedObjects(ctx, tag.ID)
			if err != nil {
				return err
			}
			for _, o := range objects {
				contents.Attached[tag.ID] = append(contents.Attached[tag.ID], o.Reference().String())
			}
			sort.Strings(contents.Attached[tag.ID])
		}
		return nil
	})
	sort.Slice(contents.Categories, func(i, j int) bool { return contents.Categories[i].ID < contents.Categories[j].ID })
	sort.Slice(contents.Tags, func(i, j int) bool { return contents.Tags[i].ID < contents.Tags[j].ID })
	return contents, err
}

func (r restTags) restore(contents tagContents) error {
	return r.session(func(ctx context.Context, m *tags.Manager) error {
		for _, category := range contents.Categories {
			category.CategoryID = category.ID
			if _, err := m.CreateCategory(ctx, &category); err != nil {
				return err
			}
		}
		for _, tag := range contents.Tags {
			tag.TagID = tag.ID
			if _, err := m.CreateTag(ctx, &tag); err != nil {
				return err
			}
			for _, text := range contents.Attached[tag.ID] {
				var ref types.ManagedObjectReference
				if !ref.FromString(text) {
					continue
				}
				if err := m.AttachTag(ctx, tag.ID, ref); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
