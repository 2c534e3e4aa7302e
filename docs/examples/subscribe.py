"""What an adapter says, live: python subscribe.py DEVICE HOST PORT [USERNAME PASSWORD CA.CRT]."""

import json
import sys

import paho.mqtt.client as mqtt

device, host, port, *account = sys.argv[1:]
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
if account:
    client.username_pw_set(*account[:2])
    client.tls_set(account[2])
client.on_connect = lambda client, *_: client.subscribe(f"foldsight/v1/{device}/state")
# A retained message is the past: nothing is shown as live because of it.
client.on_message = lambda _, __, m: m.retain or print(json.loads(m.payload)["state"], flush=True)
client.connect(host, int(port))
client.loop_forever()
