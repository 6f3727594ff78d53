package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	chunker "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/files"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	pin "github.com/ipfs/boxo/pinning/pinner"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	cmds "github.com/ipfs/go-ipfs-cmds"
	"github.com/multiformats/go-multihash"
)

type object = map[string]any

// A command ends where something fails: check and must panic, and this is where that becomes an answer.
type command func(n *node, req *cmds.Request, res cmds.ResponseEmitter) error

func (run command) with(kind any, argument cmds.Argument, options ...cmds.Option) *cmds.Command {
	call := func(req *cmds.Request, res cmds.ResponseEmitter, env cmds.Environment) (err error) {
		defer func() {
			if failure, failed := recover().(error); failed {
				err = failure
			}
		}()
		return run(env.(*node), req, res)
	}
	return &cmds.Command{Run: call, Type: kind, Arguments: []cmds.Argument{argument}, Options: options}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

var (
	name   = cmds.StringArg("cid", false, true, "blocks or roots")
	upload = cmds.FileArg("data", true, true, "files")
	root   = &cmds.Command{
		Options: []cmds.Option{cmds.OptionEncodingType, cmds.OptionStreamChannels, cmds.OptionTimeout, cmds.BoolOption("offline", "no network")},
		Subcommands: map[string]*cmds.Command{
			"version": command(version).with(object{}, name),
			"add": command(add).with(object{}, upload, cmds.IntOption("cid-version", "").WithDefault(0), cmds.BoolOption("raw-leaves", "").WithDefault(false),
				cmds.StringOption("chunker", "").WithDefault("size-262144"), cmds.IntOption("max-file-links", "").WithDefault(174), cmds.BoolOption("pin", "").WithDefault(true)),
			"block": {Subcommands: map[string]*cmds.Command{
				"get": command(blockGet).with(nil, name),
				"put": command(blockPut).with(object{}, upload, cmds.StringOption("cid-codec", "").WithDefault("raw"), cmds.StringOption("format", "").WithDefault(""), cmds.BoolOption("pin", "").WithDefault(false)),
				"rm":  command(blockRm).with(object{}, name),
			}},
			"pin": {Subcommands: map[string]*cmds.Command{
				"add": command(pinAdd).with(object{}, name),
				"ls":  command(pinLs).with(object{}, name),
				"rm":  command(pinRm).with(object{}, name),
			}},
			"repo": {Subcommands: map[string]*cmds.Command{"gc": command(collect).with(object{}, name)}},
		},
	}
)

func version(_ *node, _ *cmds.Request, res cmds.ResponseEmitter) error {
	return cmds.EmitOnce(res, object{"Version": "countersign-ipfs-node"})
}

// data reads the file of a request.
func data(req *cmds.Request) []byte {
	entries := req.Files.Entries()
	if !entries.Next() || files.FileFromEntry(entries) == nil {
		panic(errors.New("file argument 'data' is required"))
	}
	return must(io.ReadAll(files.FileFromEntry(entries)))
}

func add(n *node, req *cmds.Request, res cmds.ResponseEmitter) error {
	file := data(req)
	prefix := must(merkledag.PrefixForCidVersion(req.Options["cid-version"].(int)))
	pieces := must(chunker.FromString(bytes.NewReader(file), req.Options["chunker"].(string)))
	params := helpers.DagBuilderParams{Maxlinks: req.Options["max-file-links"].(int), RawLeaves: req.Options["raw-leaves"].(bool),
		CidBuilder: prefix, Dagserv: merkledag.NewDAGService(n.local)}
	builder := must(params.New(pieces))
	top := must(balanced.Layout(builder))
	if req.Options["pin"].(bool) {
		check(n.pins.Pin(req.Context, top, true, ""))
	}
	// The size is text, as in Kubo; js-ipfs has a number.
	return res.Emit(object{"Name": top.Cid().String(), "Hash": top.Cid().String(), "Size": fmt.Sprint(len(file))})
}

// failing breaks off where another reader ends.
type failing struct{ io.Reader }

func (f failing) Read(to []byte) (int, error) {
	count, err := f.Reader.Read(to)
	if err == io.EOF {
		err = errors.New("the datastore failed")
	}
	return count, err
}

func blockGet(n *node, req *cmds.Request, res cmds.ResponseEmitter) error {
	block := n.block(req)
	res.SetLength(uint64(len(block.RawData())))
	if n.cut > 0 {
		return res.Emit(failing{io.LimitReader(bytes.NewReader(block.RawData()), n.cut)})
	}
	return res.Emit(bytes.NewReader(block.RawData()))
}

// block finds the block that a request names: here, or at the peer unless the request is offline.
func (n *node) block(req *cmds.Request) blocks.Block {
	wanted := must(cid.Decode(req.Arguments[0]))
	if alone, _ := req.Options["offline"].(bool); alone {
		return must(n.local.GetBlock(req.Context, wanted))
	}
	return must(n.online.GetBlock(req.Context, wanted))
}

func blockPut(n *node, req *cmds.Request, res cmds.ResponseEmitter) error {
	file := data(req)
	// Kubo's limits: what peers exchange, and the two ways of naming a codec.
	if len(file) > 2<<20 {
		return errors.New("produced block is over 2MiB: big blocks can't be exchanged with other peers. consider using UnixFS for automatic chunking of bigger files, or pass --allow-big-block to override")
	}
	codec := map[string]uint64{"raw": cid.Raw, "dag-pb": cid.DagProtobuf}[req.Options["cid-codec"].(string)]
	if codec != cid.Raw && req.Options["format"].(string) != "" {
		return errors.New("unable to use \"format\" (deprecated) and a custom \"cid-codec\" at the same time")
	}
	hash := must(multihash.Sum(file, multihash.SHA2_256, -1))
	block := must(blocks.NewBlockWithCid(file, cid.NewCidV1(codec, hash)))
	check(n.local.AddBlock(req.Context, block))
	if req.Options["pin"].(bool) {
		check(n.pins.PinWithMode(req.Context, block.Cid(), pin.Recursive, ""))
	}
	return res.Emit(object{"Key": block.Cid().String(), "Size": len(file)})
}

func blockRm(n *node, req *cmds.Request, res cmds.ResponseEmitter) error {
	for _, text := range req.Arguments {
		wanted := must(cid.Decode(text))
		out := object{"Hash": text}
		if why, held, _ := n.pins.IsPinned(req.Context, wanted); held {
			out["Error"] = "pinned: " + why
		} else {
			check(n.blocks.DeleteBlock(req.Context, wanted))
		}
		check(res.Emit(out))
	}
	return nil
}

func pinAdd(n *node, req *cmds.Request, res cmds.ResponseEmitter) error {
	block := n.block(req)
	top := must(merkledag.NewDAGService(n.online).Get(req.Context, block.Cid()))
	check(n.pins.Pin(req.Context, top, true, ""))
	return cmds.EmitOnce(res, object{"Pins": []string{block.Cid().String()}})
}

func pinLs(n *node, req *cmds.Request, res cmds.ResponseEmitter) error {
	keys, all := object{}, len(req.Arguments) == 0
	for one := range n.pins.RecursiveKeys(req.Context, false) {
		if all || one.Pin.Key.String() == req.Arguments[0] {
			keys[one.Pin.Key.String()] = object{"Type": "recursive"}
		}
	}
	if len(keys) > 0 {
		return cmds.EmitOnce(res, object{"Keys": keys})
	} else if all {
		return cmds.EmitOnce(res, object{})
	}
	return fmt.Errorf("path '%s' is not pinned", req.Arguments[0])
}

func pinRm(n *node, req *cmds.Request, res cmds.ResponseEmitter) error {
	wanted := must(cid.Decode(req.Arguments[0]))
	check(n.pins.Unpin(req.Context, wanted, true))
	return cmds.EmitOnce(res, object{"Pins": []string{wanted.String()}})
}

// collect deletes what no pin holds. The block store knows multihashes only: all blocks come out as raw ones.
func collect(n *node, req *cmds.Request, res cmds.ResponseEmitter) error {
	held := map[string]bool{}
	links := merkledag.GetLinksDirect(merkledag.NewDAGService(n.local))
	for one := range n.pins.RecursiveKeys(req.Context, false) {
		visit := func(c cid.Cid) bool { before := held[string(c.Hash())]; held[string(c.Hash())] = true; return !before }
		check(merkledag.Walk(req.Context, links, one.Pin.Key, visit))
	}
	for found := range must(n.blocks.AllKeysChan(req.Context)) {
		if !held[string(found.Hash())] {
			check(n.blocks.DeleteBlock(req.Context, found))
			check(res.Emit(object{"Key": found}))
		}
	}
	return nil
}
