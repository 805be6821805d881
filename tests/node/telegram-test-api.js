// Starts telegram-test-api on a free port of the loopback interface and prints that port as its only line.
// Ends when its standard input closes, so that it never outlives the test that started it.
'use strict';

const TelegramServer = require('telegram-test-api');

// The package does not await its webhook pushes: without this, one refused push would end the process.
process.on('unhandledRejection', (error) => console.error(`push failed: ${error.message}`));

// Its default forgets messages after a minute, and it takes a port of 0 for "9000".
const server = new TelegramServer({ host: '127.0.0.1', storeTimeout: 24 * 3600 });
server.config.port = 0;

server.start().then(
  () => console.log(server.server.address().port),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
