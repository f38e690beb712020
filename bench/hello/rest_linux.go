package main

import "context"

func reportCommand(ctx context.Context, args []string) error          { return nil }
func gateCommand(ctx context.Context, args []string) error            { return nil }
func (b *bench) develop(ctx context.Context, p *plan, l string) error { return nil }
func (b *bench) steady(ctx context.Context, p *plan) error            { return nil }
