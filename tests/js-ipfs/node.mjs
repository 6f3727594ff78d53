// An IPFS node of another make than tests/ipfs-node, for the same tests: js-ipfs, alone (no peers), on 127.0.0.1. Its one argument is
// a directory for its repository. Prints one JSON line with its addresses, and ends when its standard input does.
import { create } from 'ipfs-core'
import { HttpApi } from 'ipfs-http-server'
import { HttpGateway } from 'ipfs-http-gateway'

const local = '/ip4/127.0.0.1/tcp/0'
const ipfs = await create({
  repo: process.argv[2],
  silent: true,
  offline: true,
  init: { algorithm: 'Ed25519', emptyRepo: true, profiles: ['test'] },
  config: { Addresses: { Swarm: [], API: local, Gateway: local }, Bootstrap: [], Discovery: { MDNS: { Enabled: false } } }
})
const api = new HttpApi(ipfs)
const gateway = new HttpGateway(ipfs)
await api.start()
await gateway.start()
const address = (servers) => servers[0].info.uri
console.log(JSON.stringify({ rpc: address(api._apiServers), gateway: address(gateway._gatewayServers), peer: '' }))
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
