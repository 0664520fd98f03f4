// The competing server in C: Nchan in nginx, both from Debian. It checks no tokens and has no members.

import { existsSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { freePort } from "../lib/helpers.ts";

const MODULE = "/usr/lib/nginx/modules/ngx_nchan_module.so";

export function hasNchan(): boolean {
  return existsSync(MODULE) && existsSync("/usr/sbin/nginx");
}

/** Writes a configuration into the folder. Returns the command that runs nginx with it. */
export async function nchanCommand(folder: string): Promise<string[]> {
  const port = await freePort();
  const home = mkdtempSync(join(folder, "nginx-"));
  writeFileSync(join(home, "nginx.conf"), configuration(port, home));
  // nginx prints nothing when it listens, so the shell prints the address before. Callers retry until it listens.
  const line = 'echo "http://127.0.0.1:$1"; exec /usr/sbin/nginx -p "$2" -c nginx.conf';
  return ["sh", "-c", line, "sh", String(port), home];
}

function configuration(port: number, home: string): string {
  return `
load_module ${MODULE};
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid ${home}/nginx.pid;
error_log ${home}/error.log;
events { worker_connections 19000; }
http {
  access_log off;
  client_body_temp_path ${home}/body;
  proxy_temp_path ${home}/proxy;
  fastcgi_temp_path ${home}/fastcgi;
  uwsgi_temp_path ${home}/uwsgi;
  scgi_temp_path ${home}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  nchan_max_reserved_memory 512M;
  nchan_message_buffer_length 30;
  nchan_message_timeout 1h;
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location ~ ^/post/(.+)$ { nchan_publisher; nchan_channel_id $1; }
    location ~ ^/poll/(.+)$ {
      nchan_subscriber longpoll; nchan_channel_id $1; nchan_subscriber_first_message oldest;
    }
    location ~ ^/raw/(.+)$ {
      nchan_subscriber longpoll; nchan_channel_id $1; nchan_subscriber_first_message oldest;
      nchan_longpoll_multipart_response raw;
    }
    location ~ ^/parts/(.+)$ {
      nchan_subscriber longpoll; nchan_channel_id $1; nchan_subscriber_first_message oldest;
      nchan_longpoll_multipart_response on;
    }
  }
}
`;
}
