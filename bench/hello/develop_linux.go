package main

import "context"

func (b *bench) develop(ctx context.Context, p *plan, l string) error { return nil }
func (b *bench) steady(ctx context.Context, p *plan) error            { return nil }
