# All checks of Ruby's stomp; see README.md. `Stomp::Connection` with a list of hosts, as its users have it for failover: it
# connects to the next one by itself.

require "securerandom"
require "stomp"
require "timeout"

PATIENCE_S = 30
$stdout.sync = true

def expect(what, got, wanted)
  raise "#{what}: #{got.inspect} in place of #{wanted.inspect}" unless got == wanted
end

# A connection that waits for receipts and keeps what comes meanwhile.
class Session
  attr_reader :connection

  def initialize(hosts, headers = {}, **options)
    list = hosts.map { |text| { host: text.split(":")[0], port: Integer(text.split(":")[1]), login: "", passcode: "" } }
    headers = { "accept-version" => "1.0,1.1,1.2", "host" => "/" }.merge(headers)
    @messages = []
    @connection = Stomp::Connection.new({ hosts: list, connect_headers: headers, reliable: false }.merge(options))
  end

  # Reads on until the block is content with a frame.
  def await(what)
    Timeout.timeout(PATIENCE_S, RuntimeError, "too slow: #{what}") do
      loop do
        frame = @connection.receive
        raise "the connection is lost" if frame.nil?
        raise "ERROR #{frame.headers}" if frame.command == "ERROR"
        return frame if yield frame
        @messages << frame if frame.command == "MESSAGE"
      end
    end
  end

  def asked(what)
    receipt = SecureRandom.uuid
    yield receipt
    await("the RECEIPT of #{what}") { |frame| frame.command == "RECEIPT" && frame.headers["receipt-id"] == receipt }
  end

  def send(destination, body, headers = {})
    asked("SEND") { |receipt| @connection.publish(destination, body, headers.merge("receipt" => receipt)) }
  end

  def subscribe(destination, ack, headers = {})
    asked("SUBSCRIBE") do |receipt|
      @connection.subscribe(destination, { "ack" => ack, "id" => "0", "receipt" => receipt }.merge(headers))
    end
  end

  def next
    @messages.shift || await("a MESSAGE") { |frame| frame.command == "MESSAGE" }
  end

  def take(count)
    Array.new(count) { self.next }
  end

  # In 1.2 it takes the header `ack` of a message.
  def ack(message, headers = {})
    @connection.ack(message.headers["ack"], headers)
  end

  # DISCONNECT, and its receipt.
  def close
    receipt = SecureRandom.uuid
    Timeout.timeout(PATIENCE_S) { @connection.disconnect("receipt" => receipt) }
    expect("the receipt of DISCONNECT", @connection.disconnect_receipt.headers["receipt-id"], receipt)
  end
end

def consumer(hosts, destination, ack, headers = {}, connect = {})
  session = Session.new(hosts, connect)
  session.subscribe(destination, ack, headers)
  yield session
  session.close
end

first, second, third = Array.new(3) { |n| ARGV.drop(1).rotate(n) }
producer = nil

bytes = lambda do |name, sent|
  consumer(second, "/queue/#{name}", "client-individual") do |session|
    producer.send("/queue/#{name}", sent)
    got = session.next
    expect("length", got.body.bytesize, sent.bytesize)
    expect("equal", got.body.b == sent.b, true)
    session.ack(got)
  end
end

checks = {
  "connect" => lambda do
    producer = Session.new(first)
    expect("version", producer.connection.protocol, "1.2")
  end,

  "individual" => lambda do
    %w[1 2 3].each { |body| producer.send("/queue/individual", body) }
    consumer(second, "/queue/individual", "client-individual") do |session|
      got = session.take(3)
      expect("in order", got.map(&:body), %w[1 2 3])
      session.ack(got[1])
    end
    consumer(third, "/queue/individual", "client-individual") do |session|
      got = session.take(2)
      expect("what was not acknowledged", got.map(&:body).sort, %w[1 3])
      got.each { |message| session.ack(message) }
    end
  end,

  "cumulative" => lambda do
    %w[1 2 3].each { |body| producer.send("/queue/cumulative", body) }
    consumer(second, "/queue/cumulative", "client") { |session| session.ack(session.take(3)[1]) }
    consumer(third, "/queue/cumulative", "client") do |session|
      got = session.next
      expect("what was not acknowledged", got.body, "3")
      session.ack(got)
    end
  end,

  "nack" => lambda do
    producer.send("/queue/nack", "again")
    consumer(second, "/queue/nack", "client-individual") do |session|
      before = session.next
      session.connection.nack(before.headers["ack"])
      after = session.next
      expect("the same", after.headers["message-id"], before.headers["message-id"])
      expect("marked", after.headers["redelivered"], "true")
      session.ack(after)
    end
  end,

  "wildcard" => lambda do
    consumer(second, "/topic/wild.*.eur", "auto") do |session|
      %w[a.eur a.usd b.eur].each { |name| producer.send("/topic/wild.#{name}", name) }
      expect("what matches", session.take(2).map(&:body).sort, %w[a.eur b.eur])
    end
  end,

  # As users of ActiveMQ Classic have it.
  "durable" => lambda do
    client, durable = { "client-id" => "ruby" }, { "activemq.subscriptionName" => "durable" }
    consumer(second, "/topic/durable", "client-individual", durable, client) {}
    producer.send("/topic/durable", "meanwhile")
    consumer(third, "/topic/durable", "client-individual", durable, client) do |session|
      got = session.next
      expect("what came meanwhile", got.body, "meanwhile")
      session.ack(got)
      session.asked("UNSUBSCRIBE") do |receipt|
        session.connection.unsubscribe("/topic/durable", durable.merge("id" => "0", "receipt" => receipt))
      end
    end
  end,

  "transaction" => lambda do
    { "dropped" => :abort, "kept" => :commit }.each do |body, finish|
      producer.connection.begin(body)
      %w[1 2].each { |half| producer.send("/queue/transaction", "#{body} #{half}", "transaction" => body) }
      producer.asked(finish) { |receipt| producer.connection.public_send(finish, body, "receipt" => receipt) }
    end
    consumer(second, "/queue/transaction", "client-individual") do |session|
      got = session.take(2)
      expect("only what was committed", got.map(&:body), ["kept 1", "kept 2"])
      session.connection.begin("acks")
      got.each { |message| session.ack(message, "transaction" => "acks") }
      session.connection.commit("acks")
    end
  end,

  # As users of ActiveMQ Classic have it: who asks subscribes to the temporary queue.
  "reply" => lambda do
    producer.subscribe("/temp-queue/answers", "auto", "id" => "answers")
    consumer(second, "/queue/requests", "auto") do |session|
      producer.send("/queue/requests", "question", "reply-to" => "/temp-queue/answers")
      request = session.next
      session.send(request.headers["reply-to"], "answer to #{request.body}")
      answer = producer.next
      expect("the answer", answer.body, "answer to question")
      expect("its subscription", answer.headers["subscription"], "answers")
    end
  end,

  "escaping" => lambda do
    # The library takes a backslash before the letter n for a line feed in what it reads.
    value = "colon: backslash\\ line\nreturn\r snowman \u2603"
    consumer(second, "/queue/escaping", "auto") do |session|
      producer.send("/queue/escaping", "body", "na:me" => value)
      expect("header", session.next.headers["na:me"], value)
    end
  end,

  "binary" => -> { bytes.call("binary", (0..255).to_a.pack("C*") * 2) },
  "large" => -> { bytes.call("large", Array.new(1 << 20) { |n| (n * n + (n >> 8)) % 256 }.pack("C*")) },

  "failover" => lambda do
    # With `reliable` it connects to the next host by itself and sends the frame that failed again; what had been sent
    # before and has no receipt is for its user to send again.
    session = Session.new(first, reliable: true)
    port = session.connection.port
    100.times do |n|
      if n == 50
        puts "kill #{first[0]}"
        $stdin.gets
      end
      confirmed = nil
      until confirmed == "m-#{n}"
        session.connection.publish("/queue/failover", "m-#{n}", "receipt" => "m-#{n}")
        begin
          Timeout.timeout(2) { confirmed = session.connection.receive.headers["receipt-id"] }
        rescue Timeout::Error
          next
        end
      end
      puts "confirmed m-#{n}"
    end
    raise "still at the same address" if session.connection.port == port
    session.close
    consumer(third, "/queue/failover", "client-individual") do |session|
      bodies = {}
      while bodies.size < 100
        message = session.next
        bodies[message.body] = true
        puts "got #{message.body}"
        session.ack(message)
      end
    end
  end,

  "disconnect" => lambda do
    session = Session.new(second)
    20.times { |n| session.connection.publish("/queue/disconnect", n.to_s) }
    session.close
    consumer(third, "/queue/disconnect", "client-individual") do |session|
      session.take(20).each { |message| session.ack(message) }
    end
  end,
}

if ARGV[0] == "idle"
  session = Session.new(first, { "heart-beat" => "1000,1000" })
  sleep Integer(ENV["RHIZOMQ_TEST_IDLE_MS"]) / 1000.0
  session.send("/topic/idle", "still here")
  raise "no heart-beats came" unless session.connection.hbrecv_count.positive?
  session.close
  puts "ok heart-beats"
  exit
end

checks.each do |name, act|
  act.call
  puts "ok #{name}"
rescue StandardError => error
  abort "ruby stomp: #{name}: #{error.full_message}"
end
