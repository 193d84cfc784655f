// node ws_client.mjs URL [SUBPROTOCOL...]: text and binary to an echo and back.
import { WebSocket } from 'ws'

const [url, ...protocols] = process.argv.slice(2)
const text = 'grüße, 世界\r\n'.repeat(1000)
const messages = [text, '', 'x', Buffer.alloc(0)]
for (const size of [1, 125, 126, 65535, 65536, 300000]) {
  messages.push(Buffer.from(Array.from({ length: size }, (_, i) => (i * 31 + size) & 255)))
}
const want = Buffer.concat(messages.map(m => Buffer.from(m)))

function fail(why) {
  console.error(why)
  process.exit(1)
}

const ws = new WebSocket(url, protocols)
const got = []
let length = 0
ws.on('open', () => {
  const selected = protocols.length ? 'binary' : ''
  if (ws.protocol !== selected) fail(`subprotocol ${ws.protocol}, want ${selected}`)
  for (const m of messages) ws.send(m)
  // One message in two fragments, one of them empty.
  ws.send('frag', { fin: false })
  ws.send('', { fin: false })
  ws.send('ments', { fin: true })
})
ws.on('message', (data, isBinary) => {
  if (!isBinary) fail('a text frame came back; bytes need not be text')
  got.push(data)
  length += data.length
  if (length === want.length + 9) ws.close(1000)
})
ws.on('error', e => fail(e))
ws.on('close', code => {
  if (!Buffer.concat(got).equals(Buffer.concat([want, Buffer.from('fragments')]))) fail(`${length} bytes came back and differ`)
  if (code !== 1000) fail(`close code ${code}`)
  console.log('same')
})
