package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/kapsel-hq/kapsel/client"
)

// A program that makes an endpoint and gets what it needs to receive: where senders post to,
// and the secret that checks deliveries, which is shown once.
func Example() {
	server := startKapsel()
	defer server.stop()
	ctx := context.Background()

	c, err := client.New(server.url, server.key) // a tenant's key, kap_…
	if err != nil {
		panic(err)
	}
	endpoint, err := c.CreateEndpoint(ctx, "", client.EndpointInput{
		Name: "orders",
		URL:  "https://shop.example/hooks",
		Retry: &client.Retry{
			MaxAttempts: new(int64(5)),
			Base:        new(client.Duration(10 * time.Second)),
		},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(endpoint.Name, endpoint.State == client.EndpointStateActive)
	fmt.Println(*endpoint.IngestURL == server.url+"/ingest/"+endpoint.ID)
	fmt.Println(len(endpoint.SigningSecret) > 0)
	// Output:
	// orders true
	// true
	// true
}

// Programs decide by the code of an error, people read its detail.
func ExampleError() {
	server := startKapsel()
	defer server.stop()
	c, err := client.New(server.url, server.key)
	if err != nil {
		panic(err)
	}
	_, err = c.CreateEndpoint(context.Background(), "", client.EndpointInput{Name: "orders", URL: "http://169.254.169.254/", Concurrency: new(int64(5000))})
	var refused *client.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Status, refused.Code)
		for _, field := range refused.Fields {
			fmt.Println(field.Field, field.Detail)
		}
	}
	// Output:
	// 422 E1006
	// concurrency must be 1 to 1000
}

// What was given up is found and delivered again.
func ExampleClient_ListDeliveries() {
	server := startKapsel()
	defer server.stop()
	ctx := context.Background()
	c, err := client.New(server.url, server.key)
	if err != nil {
		panic(err)
	}
	server.giveUp(3)

	open := client.ListDeliveriesFilter{Status: client.DeliveryStatusDeadLetter, Replayed: "false"}
	for delivery, err := range c.ListDeliveries(ctx, open) {
		if err != nil {
			panic(err)
		}
		again, err := c.ReplayEvent(ctx, delivery.EventID, client.ReplayEventInput{EndpointID: client.Some(delivery.EndpointID)})
		if err != nil {
			panic(err)
		}
		fmt.Println(again.Status, *again.ReplayOf == delivery.ID)
	}
	// Output:
	// pending true
	// pending true
	// pending true
}

// Many are replayed at a rate, after a look at how many there are.
func ExampleClient_CreateReplay() {
	server := startKapsel()
	defer server.stop()
	ctx := context.Background()
	c, err := client.New(server.url, server.key)
	if err != nil {
		panic(err)
	}
	server.giveUp(3)

	what := client.ReplayInput{Since: time.Now().Add(-time.Hour), Rate: client.Some(int64(100))}
	preview, err := c.PreviewReplay(ctx, "", what)
	if err != nil {
		panic(err)
	}
	fmt.Println(preview.Count, "would be replayed")
	replay, err := c.CreateReplay(ctx, "", what)
	if err != nil {
		panic(err)
	}
	fmt.Println(replay.Status == client.ReplayStatusRunning, replay.Total)
	// Output:
	// 3 would be replayed
	// true 3
}

// Events are followed as they come in. The position of the last one is where to go on.
func ExampleClient_StreamEvents() {
	server := startKapsel()
	defer server.stop()
	ctx := context.Background()
	c, err := client.New(server.url, server.key)
	if err != nil {
		panic(err)
	}
	server.giveUp(2)

	kept := "0" // the oldest
	for event, err := range c.StreamEvents(ctx, client.StreamOptions{After: kept}) {
		if err != nil {
			panic(err)
		}
		fmt.Println(event.ContentType, event.Size)
		if kept = event.Position; event.Size == 2 {
			break
		}
	}
	// Output:
	// text/plain 1
	// text/plain 2
}

// A provider's secret is rotated by adding the new one beside those that are there.
func ExampleKeepSecret() {
	server := startKapsel()
	defer server.stop()
	ctx := context.Background()
	c, err := client.New(server.url, server.key)
	if err != nil {
		panic(err)
	}
	endpoint, err := c.CreateEndpoint(ctx, "", client.EndpointInput{
		Name: "github", URL: "https://ci.example/hooks",
		Verification: &client.VerificationInput{Provider: new("github"), Secrets: []client.SecretInput{client.NewSecret("the former")}},
	})
	if err != nil {
		panic(err)
	}

	secrets := []client.SecretInput{client.NewSecret("the new one")}
	for _, s := range endpoint.Verification.Secrets {
		secrets = append(secrets, client.KeepSecret(s.ID))
	}
	changed, err := c.UpdateEndpoint(ctx, endpoint.ID, client.EndpointPatch{
		Verification: client.Some(client.VerificationInput{Secrets: secrets}),
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(len(changed.Verification.Secrets), "secrets")
	// Output: 2 secrets
}

// A client of one's own brings its transport and its time-out.
func ExampleWithHTTPClient() {
	server := startKapsel()
	defer server.stop()
	own := &http.Client{Timeout: 5 * time.Second, Transport: http.DefaultTransport}
	c, err := client.New(server.url, server.key, client.WithHTTPClient(own))
	if err != nil {
		panic(err)
	}
	usage, err := c.GetUsage(context.Background(), client.GetUsageFilter{})
	if err != nil {
		panic(err)
	}
	fmt.Println(usage.Total.Events)
	// Output: 0
}
