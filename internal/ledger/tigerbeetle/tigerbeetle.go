//go:build (linux || darwin) && (amd64 || arm64)

// Package tigerbeetle keeps books in TigerBeetle. It calls TigerBeetle's own client, a C library, without
// cgo. The library is that of TigerBeetle's PyPI package, release 0.17; the numbers and structs here are
// those of its tb_client.h.
package tigerbeetle

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/kapsel-hq/kapsel/internal/ledger"
)

// Timeout is how long a request may take. One to a cluster that is away would wait for ever.
const Timeout = 5 * time.Second

// Operations of tb_client.h.
const (
	lookupAccounts      = 140
	lookupTransfers     = 141
	getAccountTransfers = 142
	createAccounts      = 146
	createTransfers     = 147
)

// packet is tb_packet_t.
type packet struct {
	userData  uintptr
	data      unsafe.Pointer
	dataSize  uint32
	_         uint16 // user_tag
	operation uint8
	status    uint8
	_         [64]byte
}

// library is the loaded library. All clients of a process share one.
type library struct {
	init, initEcho func(client *[4]uint64, cluster *[16]byte, addresses *byte, length uint32, context, completion uintptr) int32
	submit         func(client *[4]uint64, p *packet) int32
	deinit         func(client *[4]uint64) int32
}

// Callbacks are never freed, so there is one for all clients.
var completion = sync.OnceValue(func() uintptr { return purego.NewCallback(completed) })

// requests holds the requests under way by the userData of their packets.
var requests sync.Map // uintptr → chan reply

var lastRequest atomic.Uintptr

// reply is the end of a request. data is nil unless status is 0.
type reply struct {
	status uint8
	data   []byte
}

// completed is called by the library, on a thread of its own.
func completed(_ uintptr, p *packet, _ uint64, data unsafe.Pointer, size uint32) {
	waiting, ok := requests.LoadAndDelete(p.userData)
	if !ok {
		return
	}
	r := reply{status: p.status}
	if p.status == 0 {
		r.data = append(make([]byte, 0, size), unsafe.Slice((*byte)(data), size)...)
	}
	waiting.(chan reply) <- r
}

// load loads the library from a file.
func load(path string) (lib library, err error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return lib, fmt.Errorf("load TigerBeetle's client: %w", err)
	}
	for name, function := range map[string]any{
		"tb_client_init": &lib.init, "tb_client_init_echo": &lib.initEcho, "tb_client_submit": &lib.submit, "tb_client_deinit": &lib.deinit,
	} {
		symbol, err := purego.Dlsym(handle, name)
		if err != nil {
			return lib, fmt.Errorf("%s is not TigerBeetle's client library: %w", path, err)
		}
		purego.RegisterFunc(function, symbol)
	}
	return lib, nil
}

// Client is a ledger.Books in a cluster. It cannot be used after an error: a request may still be under
// way in the library, until Close.
type Client struct {
	lib    library
	client *[4]uint64 // tb_client_t, which does not move
	pins   runtime.Pinner
	stuck  []*runtime.Pinner // of requests that the library may still have
	closed bool
}

var _ ledger.Books = (*Client)(nil)

// Open returns a client of the cluster at some addresses, in TigerBeetle's form, with the library in a
// file. It does not wait for the cluster.
func Open(path, addresses string, cluster [16]byte) (*Client, error) {
	return open(path, addresses, cluster, func(l *library) func(*[4]uint64, *[16]byte, *byte, uint32, uintptr, uintptr) int32 { return l.init })
}

func open(path, addresses string, cluster [16]byte, which func(*library) func(*[4]uint64, *[16]byte, *byte, uint32, uintptr, uintptr) int32) (*Client, error) {
	lib, err := load(path)
	if err != nil {
		return nil, err
	}
	if addresses == "" {
		return nil, errors.New("TigerBeetle has no address")
	}
	c := &Client{lib: lib, client: new([4]uint64)}
	c.pins.Pin(c.client)
	text, id := []byte(addresses), littleEndian(cluster)
	if status := which(&lib)(c.client, &id, &text[0], uint32(len(text)), 0, completion()); status != 0 {
		c.pins.Unpin()
		return nil, fmt.Errorf("TigerBeetle's client does not start: %s", initStatus(status))
	}
	return c, nil
}

// Close ends the client. It waits for the library, which first ends the requests under way.
func (c *Client) Close() {
	if !c.closed {
		c.closed = true
		c.lib.deinit(c.client)
		c.pins.Unpin()
		for _, pins := range c.stuck {
			pins.Unpin()
		}
		c.stuck = nil
	}
}

// request sends a request and returns what comes back.
func (c *Client) request(ctx context.Context, operation uint8, data []byte) ([]byte, error) {
	if c.closed {
		return nil, errors.New("TigerBeetle's client is closed")
	}
	if len(data) == 0 {
		return nil, nil
	}
	n := lastRequest.Add(1)
	waiting := make(chan reply, 1)
	requests.Store(n, waiting)
	p := &packet{userData: n, data: unsafe.Pointer(&data[0]), dataSize: uint32(len(data)), operation: operation}
	pins := new(runtime.Pinner)
	pins.Pin(p)
	pins.Pin(&data[0])
	if status := c.lib.submit(c.client, p); status != 0 {
		requests.Delete(n)
		pins.Unpin()
		return nil, errors.New("TigerBeetle's client takes no request")
	}
	timeout := time.NewTimer(Timeout)
	defer timeout.Stop()
	select {
	case r := <-waiting:
		pins.Unpin()
		if r.status != 0 {
			return nil, fmt.Errorf("TigerBeetle's client: %s", packetStatus(r.status))
		}
		return r.data, nil
	case <-timeout.C:
		c.stuck = append(c.stuck, pins)
		return nil, fmt.Errorf("TigerBeetle does not answer within %v", Timeout)
	case <-ctx.Done():
		c.stuck = append(c.stuck, pins)
		return nil, ctx.Err()
	}
}

// initStatus is TB_INIT_STATUS in words.
func initStatus(s int32) string {
	names := []string{"success", "unexpected", "out of memory", "the address is invalid", "there are too many addresses", "no resources", "no network"}
	if s >= 0 && int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("status %d", s)
}

// packetStatus is TB_PACKET_STATUS in words.
func packetStatus(s uint8) string {
	names := []string{"ok", "too much data", "the cluster evicted the client", "the library is too old for the cluster", "the library is too new for the cluster",
		"it was closed", "invalid operation", "invalid size"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("status %d", s)
}

// littleEndian returns a number of 128 bits in the library's order of bytes, or back.
func littleEndian(id [16]byte) (out [16]byte) {
	for i, b := range id {
		out[15-i] = b
	}
	return out
}

// size is that of tb_account_t and tb_transfer_t, answerSize that of the results of making them.
const (
	size       = 128
	answerSize = 16
	filterSize = 128
)

// CreateAccounts implements ledger.Books.
func (c *Client) CreateAccounts(ctx context.Context, all []ledger.Account) ([]ledger.AccountAnswer, error) {
	data := make([]byte, 0, size*len(all))
	for _, a := range all {
		var b [size]byte
		put128(b[0:], a.ID)
		put128(b[80:], a.Owner) // user_data_128
		binary.LittleEndian.PutUint32(b[104:], ledger.Version)
		binary.LittleEndian.PutUint32(b[112:], ledger.Number)
		binary.LittleEndian.PutUint16(b[116:], uint16(a.Code))
		data = append(data, b[:]...)
	}
	return answers[ledger.AccountAnswer](c.request(ctx, createAccounts, data))
}

// CreateTransfers implements ledger.Books.
func (c *Client) CreateTransfers(ctx context.Context, all []ledger.Transfer) ([]ledger.TransferAnswer, error) {
	data := make([]byte, 0, size*len(all))
	for _, t := range all {
		data = appendTransfer(data, &t)
	}
	return answers[ledger.TransferAnswer](c.request(ctx, createTransfers, data))
}

// appendTransfer appends a tb_transfer_t.
func appendTransfer(data []byte, t *ledger.Transfer) []byte {
	var b [size]byte
	put128(b[0:], t.ID)
	put128(b[16:], t.Debit)
	put128(b[32:], t.Credit)
	b[48] = 1 // the amount
	put128(b[80:], t.Event)
	binary.LittleEndian.PutUint64(b[96:], t.At)
	binary.LittleEndian.PutUint32(b[104:], t.Version)
	binary.LittleEndian.PutUint32(b[112:], ledger.Number)
	binary.LittleEndian.PutUint16(b[116:], t.Code)
	return append(data, b[:]...)
}

func put128(b []byte, id ledger.ID) {
	le := littleEndian(id)
	copy(b, le[:])
}

// answers reads the statuses of an answer.
func answers[A ~uint32](data []byte, err error) ([]A, error) {
	if err != nil {
		return nil, err
	}
	if len(data)%answerSize != 0 {
		return nil, errors.New("TigerBeetle's answer has an unknown form; is the library of release 0.17?")
	}
	var all []A
	for ; len(data) > 0; data = data[answerSize:] {
		all = append(all, A(binary.LittleEndian.Uint32(data[8:])))
	}
	return all, nil
}

// Balances implements ledger.Books.
func (c *Client) Balances(ctx context.Context, ids []ledger.ID) (all []ledger.Balance, err error) {
	data, err := c.request(ctx, lookupAccounts, idsOf(ids))
	for ; err == nil && len(data) >= size; data = data[size:] {
		all = append(all, ledger.Balance{
			ID: get128(data), Debits: int64(binary.LittleEndian.Uint64(data[32:])), Credits: int64(binary.LittleEndian.Uint64(data[64:])),
		})
	}
	return all, err
}

// Transfers implements ledger.Books.
func (c *Client) Transfers(ctx context.Context, ids []ledger.ID) ([]ledger.Booked, error) {
	return transfers(c.request(ctx, lookupTransfers, idsOf(ids)))
}

// TransfersOf implements ledger.Books.
func (c *Client) TransfersOf(ctx context.Context, account ledger.ID, before uint64, limit int) ([]ledger.Booked, error) {
	var b [filterSize]byte
	put128(b[0:], account)
	if before > 0 {
		binary.LittleEndian.PutUint64(b[112:], before-1) // timestamp_max
	}
	binary.LittleEndian.PutUint32(b[120:], uint32(limit))
	binary.LittleEndian.PutUint32(b[124:], 1|2|4) // debits, credits, the newest first
	return transfers(c.request(ctx, getAccountTransfers, b[:]))
}

// transfers reads tb_transfer_ts.
func transfers(data []byte, err error) (all []ledger.Booked, _ error) {
	for ; err == nil && len(data) >= size; data = data[size:] {
		all = append(all, ledger.Booked{
			Transfer: ledger.Transfer{
				ID: get128(data), Debit: get128(data[16:]), Credit: get128(data[32:]), Event: get128(data[80:]),
				At: binary.LittleEndian.Uint64(data[96:]), Version: binary.LittleEndian.Uint32(data[104:]), Code: binary.LittleEndian.Uint16(data[116:]),
			},
			Timestamp: binary.LittleEndian.Uint64(data[120:]),
		})
	}
	return all, err
}

func get128(b []byte) ledger.ID { return ledger.ID(littleEndian([16]byte(b[:16]))) }

func idsOf(ids []ledger.ID) []byte {
	data := make([]byte, 0, 16*len(ids))
	for _, id := range ids {
		le := littleEndian(id)
		data = append(data, le[:]...)
	}
	return data
}
