// Ipfs-node is a small IPFS node for tests, of the parts that Kubo is made of: boxo's bitswap, pinner and trustless gateway on
// go-libp2p, and an RPC of Kubo's shape on Kubo's own HTTP layer, go-ipfs-cmds.
//
// It listens on 127.0.0.1 only, keeps everything in memory, looks for blocks only at the peer that it was told to connect to, prints
// one JSON line with its addresses, and ends when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/gateway"
	"github.com/ipfs/boxo/ipld/merkledag"
	pin "github.com/ipfs/boxo/pinning/pinner"
	"github.com/ipfs/boxo/pinning/pinner/dspinner"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/sync"
	cmdshttp "github.com/ipfs/go-ipfs-cmds/http"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
)

// node is what the commands work on.
type node struct {
	blocks        blockstore.Blockstore
	online, local blockservice.BlockService
	pins          pin.Pinner
	cut           int64 // after how many bytes block/get fails; 0 for never
}

// newNode gives a node and its address.
func newNode(ctx context.Context, connect string) (*node, string) {
	host := must(libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay()))
	store := sync.MutexWrap(datastore.NewMapDatastore())
	blocks := blockstore.NewIdStore(blockstore.NewBlockstore(store))
	network := bsnet.NewFromIpfsHost(host)
	exchange := bitswap.New(ctx, network, nil, blocks)
	network.Start(exchange)
	// After the start: bitswap speaks to the peers that it sees coming.
	if connect != "" {
		info := must(peer.AddrInfoFromString(connect))
		check(host.Connect(ctx, *info))
	}
	n := &node{blocks: blocks, online: blockservice.New(blocks, exchange), local: blockservice.New(blocks, offline.Exchange(blocks))}
	n.pins = must(dspinner.New(ctx, store, merkledag.NewDAGService(n.online)))
	return n, fmt.Sprintf("%s/p2p/%s", host.Addrs()[0], host.ID())
}

// guarded lets requests pass that carry the authorization, where one is asked for; the refusal is Kubo's.
func guarded(authorization string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if authorization != "" && r.Header.Get("Authorization") != authorization {
			http.Error(w, "Kubo RPC Access Denied: Please provide a valid authorization token as defined in the API.Authorizations configuration.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// serve answers on a free port of 127.0.0.1 and gives the URL.
func serve(handler http.Handler) string {
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	go func() { log.Fatal(http.Serve(listener, handler)) }()
	return "http://" + listener.Addr().String()
}

func main() {
	connect := flag.String("connect", "", "a peer to connect to, /ip4/…/tcp/…/p2p/…")
	authorization := flag.String("authorization", "", "what the RPC asks for in the Authorization header")
	cut := flag.Int64("cut", 0, "block/get fails in mid-stream, after so many bytes")
	flag.Parse()
	n, at := newNode(context.Background(), *connect)
	n.cut = *cut
	config := cmdshttp.NewServerConfig()
	config.APIPath = "/api/v0"
	rpc := serve(guarded(*authorization, cmdshttp.NewHandler(n, root, config)))
	backend := must(gateway.NewBlocksBackend(n.online))
	web := serve(gateway.NewHandler(gateway.Config{NoDNSLink: true, DisableHTMLErrors: true}, backend))
	check(json.NewEncoder(os.Stdout).Encode(map[string]string{"rpc": rpc, "gateway": web, "peer": at}))
	// Whoever started it holds the other end.
	must(io.Copy(io.Discard, os.Stdin))
}
